"""Using exported files: one module per format."""

from scaledl.runtime.torchscript import Predictor, load

__all__ = ["Predictor", "load"]
