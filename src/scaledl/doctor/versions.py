"""Python and packages: what is there, what is too old to be safe, what must not be there."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from scaledl.doctor.check import Check, worst

# The first release without a hole that matters here, or that scaledl needs. True: scaledl does not run without it.
FLOORS: Mapping[str, tuple[str, bool]] = {
    "torch": ("2.11", True),
    "pytorch-lightning": ("2.6.6", True),
    "torch-pruning": ("1.6.1", True),
    "numpy": ("2.0", True),
    "pydantic": ("2.11", True),
    "safetensors": ("0.5", True),
    "ray": ("2.54", False),
    "deepspeed": ("0.18.2", False),
    "pillow": ("12.3", False),
    "onnx": ("1.21", False),
    "starlette": ("0.47.2", False),
    "python-multipart": ("0.0.27", False),
}
BAD: Mapping[str, tuple[str, ...]] = {"lightning": ("2.6.2", "2.6.3")}  # were published with somebody else's code
EXTRAS = {"ray": "tune", "deepspeed": "deepspeed"}
PYTHONS = ((3, 11), (3, 14))


def python() -> Check:
    """
    >>> python().verdict
    'ok'
    """
    what = f"{platform.python_version()} at {sys.executable}"
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        return Check("python", "ok", what)
    return Check("python", "fail", what, "use Python 3.11, 3.12 or 3.13")


def packages(installed: Mapping[str, str] | None = None) -> Check:
    """`installed`: name -> version, by default what this interpreter finds."""
    found = _installed() if installed is None else installed
    checks = [_package(name, found.get(name), *floor) for name, floor in FLOORS.items()]
    checks += [_bad(name, found[name]) for name in BAD if name in found]
    return worst("packages", [check for check in checks if check is not None])


def _package(name: str, got: str | None, floor: str, needed: bool) -> Check | None:
    if got is None:
        return Check(name, "fail", f"{name} is missing", f"pip install '{name}>={floor}'") if needed else None
    if _numbers(got) >= _numbers(floor):
        return Check(name, "ok", f"{name} {got}")
    return Check(name, "fail", f"{name} {got} is older than {floor}", f"pip install '{name}>={floor}'")


def _bad(name: str, got: str) -> Check:
    fix = "pip uninstall lightning: scaledl uses pytorch-lightning, and both together confuse Ray"
    if got in BAD[name]:
        return Check(name, "fail", f"{name} {got} was tampered with", f"{fix}; then change your passwords and keys")
    return Check(name, "warn", f"{name} {got} is installed beside pytorch-lightning", fix)


def _installed() -> dict[str, str]:
    found = {}
    for name in (*FLOORS, *BAD):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _numbers(text: str) -> tuple[int, ...]:
    """
    >>> _numbers("2.14.1+cpu"), _numbers("0.47.2rc1")
    ((2, 14, 1), (0, 47, 2))
    """
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()
