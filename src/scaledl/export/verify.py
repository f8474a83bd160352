"""The proof of an exported file: hash, clean process, outputs, batch sizes, executed kernels, size and latency."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from scaledl.config.schema import ExportConfig
from scaledl.console import get_console
from scaledl.data import DataModule
from scaledl.errors import ScaledlError
from scaledl.export import checks
from scaledl.export.artifact import record_verification
from scaledl.export.checks import Check, Verification
from scaledl.export.clean_process import CleanProcessFailed, Observation, observe
from scaledl.export.reference import Reference, build_reference
from scaledl.models.structure import Model
from scaledl.run import Run
from scaledl.runtime.artifact import Cases, HashMismatch, known_hashes, read_cases, read_spec, read_trusted
from scaledl.runtime.outputs import OutputSpec

TIMEOUT_SECONDS = 600.0


def verify(
    path: Path,
    *,
    run: Run | None = None,
    model: Model | None = None,
    data: DataModule | None = None,
    trust: bool = False,
    config: ExportConfig | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Verification:
    """Verify an exported file. Nothing of it is loaded before its hash matches the one recorded outside it.

    With `model` and `data` its outputs are held against the source model's on the whole test split, else against those
    that stand in the file. A verification that passed is kept in the file's sidecar.

    Args:
        path: the exported file.
        run: the run it belongs to, whose manifest may list the sidecar.
        model: the source model, float or fake-quantized.
        data: the data that the model was trained on.
        trust: also verify a file of which no hash is known; its code is run.
        config: batch sizes and threads of the latency; default: the run's, else the defaults.
        timeout: seconds that the clean process may take.

    Raises:
        UsageError: missing, not an artifact, or of unknown origin without `trust`.
    """
    path = Path(path)
    try:
        content = read_trusted(path, trust=trust)
    except HashMismatch as error:
        return _refused(path, error)
    config = config or (run.config.export if run else ExportConfig())
    spec, cases = read_spec(content, path), read_cases(content, path)
    sha256 = hashlib.sha256(content).hexdigest()
    known = known_hashes(path)
    made = [_origin_check(sha256, [record.origin.name for record in known])]
    reference = build_reference(model, data, spec.input) if model and data else None
    try:
        observed = observe(path, sha256, data.test.inputs if reference and data else None, config, timeout)
    except CleanProcessFailed as error:
        return Verification(path, sha256, len(content), (*made, Check("clean process", False, str(error))))
    int8 = spec.engine is not None
    made += [
        checks.check_clean(observed.report),
        checks.check_cases(observed, cases, int8),
        checks.check_batches(observed, int8),
        checks.check_kernels(observed.report, int8),
    ]
    if reference is not None:
        made += checks.check_source(observed, reference, spec)
    verification = _verdict(path, sha256, len(content), tuple(made), observed, cases, reference, spec.output)
    if verification.ok and known:
        _keep(verification, run)
    return verification


def _keep(verification: Verification, run: Run | None) -> None:
    """The verdict stands also where it cannot be written down."""
    try:
        record_verification(verification.path, _without_path(verification), run)
    except ScaledlError as error:
        get_console().warn(f"the verification is not kept beside the file: {error}")


def _origin_check(sha256: str, origins: list[str]) -> Check:
    where = f"as recorded in {', '.join(origins)}" if origins else "not recorded anywhere; trusted on request"
    return Check("hash", True, f"SHA-256 {sha256[:16]}…, {where}")


def _refused(path: Path, error: ScaledlError) -> Verification:
    content = path.read_bytes()
    return Verification(path, hashlib.sha256(content).hexdigest(), len(content), (Check("hash", False, str(error)),))


def _verdict(
    path: Path,
    sha256: str,
    size: int,
    made: tuple[Check, ...],
    observed: Observation,
    cases: Cases,
    reference: Reference | None,
    output: OutputSpec,
) -> Verification:
    outputs, expected = _compared(observed, cases, reference)
    comparable = outputs.shape == expected.shape
    kernels = observed.report["kernels"]
    fake = reference.fake_quantized if reference else None
    found = checks.figure(outputs, reference.labels, output) if reference and comparable else None
    return Verification(
        path=path,
        sha256=sha256,
        size=size,
        checks=made,
        max_error=checks.max_error(outputs, expected) if comparable else None,
        agreement=checks.agreement(outputs, expected, output) if comparable else None,
        metric=found[0] if found else None,
        score=found[1] if found else None,
        sqnr_db=checks.sqnr_db(outputs, fake) if fake is not None and comparable else None,
        int8_kernels=sum(kernels["int8"].values()),
        float_kernels=sum(kernels["float"].values()),
        latency={int(batch): values for batch, values in observed.report["latency"].items()},
    )


def _compared(observed: Observation, cases: Cases, reference: Reference | None) -> tuple[Tensor, Tensor]:
    if reference is None:
        return observed.outputs["cases"], cases.outputs
    return observed.outputs["test"], reference.outputs


def _without_path(verification: Verification) -> dict[str, object]:
    """The sidecar moves with the file: a path in it would soon be wrong."""
    return {key: value for key, value in verification.to_dict().items() if key not in ("path", "sha256")}
