"""What scaledl works together with: Slurm, Ray, DeepSpeed."""

from __future__ import annotations

import json
import re
import shutil
import stat
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from scaledl.doctor.check import Check, worst
from scaledl.doctor.processes import Asked, ask

SLURM_SECONDS = 10.0
IMPORT_SECONDS = 120.0
_OLDEST_SLURM = (22, 5)


def slurm(environ: Mapping[str, str]) -> Check:
    job = environ.get("SLURM_JOB_ID")
    if shutil.which("scontrol") is None:
        if job:
            what = f"job {job}, but there is no scontrol here (a container?)"
            fix = "requeue from the batch script outside, as slurm/train.sh does"
            return Check("slurm", "warn", what, fix)
        return Check("slurm", "ok", "not on this machine")
    went_well, version = ask(["scontrol", "--version"], SLURM_SECONDS)
    if not went_well:
        what = f"Slurm's tools are here, but do not work: {version}"
        fix = "set SLURM_CONF, or mount the cluster's configuration; nothing to do if this is no machine of a cluster"
        return Check("slurm", "fail" if job else "warn", what, fix)
    checks = [_slurm_version(version.strip()), _controller(asked_for=bool(job))]
    if job:
        checks.append(_requeue(job))
    return worst("slurm", checks)


def _slurm_version(text: str) -> Check:
    match = re.search(r"(\d+)\.(\d+)", text)
    if match and (int(match[1]), int(match[2])) < _OLDEST_SLURM:
        return Check("", "warn", f"{text} is older than what was tested", "22.05 or newer")
    return Check("", "ok", text)


def _controller(*, asked_for: bool) -> Check:
    went_well, answer = ask(["scontrol", "ping"], SLURM_SECONDS)
    if went_well and " UP" in answer:
        return Check("", "ok", "controller is up")
    problem = answer.strip().splitlines()[0] if answer.strip() else "no answer"
    fix = "a job cannot be submitted or requeued now: ask the cluster's administrators"
    return Check("", "fail" if asked_for else "warn", f"the controller is not there: {problem}", fix)


def _requeue(job: str) -> Check:
    went_well, answer = ask(["scontrol", "--oneliner", "show", "job", job], SLURM_SECONDS)
    if went_well and re.search(r"\bRequeue=0\b", answer):
        return Check(
            "", "warn", f"job {job} may not be requeued", "sbatch --requeue: a preempted training then goes on"
        )
    return Check("", "ok", f"job {job} may be requeued" if went_well else f"job {job}")


def ask_ray() -> Asked | None:
    return _ask_import("ray", "print(json.dumps(m.__version__))", {})


def ray(asked: Asked | None, environ: Mapping[str, str], home: Path) -> Check:
    if asked is None:
        return Check("ray", "ok", "not installed; `scaledl tune` needs it")
    checks = [_imported("ray", asked)]
    mode, address = environ.get("RAY_AUTH_MODE", ""), environ.get("RAY_ADDRESS", "")
    if address and mode != "token":
        what = f"RAY_ADDRESS={address} without RAY_AUTH_MODE=token: who reaches its ports runs code there"
        checks.append(Check("", "warn", what, "start Ray with RAY_AUTH_MODE=token on every node"))
    token = Path(environ.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    if token.is_file() and token.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        checks.append(Check("", "warn", f"{token} can be read by others", f"chmod 600 {token}"))
    return worst("ray", checks)


def ask_deepspeed() -> Asked | None:
    accelerator = {} if any(Path("/proc/driver/nvidia/gpus").glob("*")) else {"DS_ACCELERATOR": "cpu"}
    return _ask_import("deepspeed", "print(json.dumps(m.__version__))", accelerator)


def deepspeed(asked: Asked | None) -> Check:
    if asked is None:
        return Check("deepspeed", "ok", "not installed; trainer.strategy=deepspeed needs it")
    return worst("deepspeed", [_imported("deepspeed", asked)])


def _ask_import(module: str, code: str, variables: Mapping[str, str]) -> Asked | None:
    if find_spec(module) is None:
        return None
    quiet = {"DS_IGNORE_CUDA_DETECTION": "1", "PYTHONWARNINGS": "ignore", **variables}
    return Asked.python(f"import json, {module} as m; {code}", IMPORT_SECONDS, quiet)


def _imported(module: str, asked: Asked) -> Check:
    went_well, answer = asked.answer()
    if not went_well:
        fix = f"pip install --force-reinstall {module}, or uninstall it"
        return Check("", "fail", f"{module} is installed but does not import: {answer}", fix)
    return Check("", "ok", f"{module} {json.loads(answer.strip().splitlines()[-1])}")
