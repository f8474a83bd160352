"""Model -> artifact, and the proof that the artifact is what it says."""

from scaledl.export.artifact import Artifact
from scaledl.export.checks import Check, Verification
from scaledl.export.publish import export_and_verify
from scaledl.export.torchscript import export_torchscript
from scaledl.export.verify import verify

__all__ = ["Artifact", "Check", "Verification", "export_and_verify", "export_torchscript", "verify"]
