"""Imports point one way only, and the light part of the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scaledl

pytestmark = pytest.mark.unit

PACKAGE = Path(scaledl.__file__).parent
ORDER = (
    *("errors", "console", "config", "run", "runtime", "data", "models", "optim", "distributed", "tasks"),
    *(
        "checkpoint",
        "evaluate",
        "train",
        "export",
        "bench",
        "compress",
        "tune",
        "plan",
        "launch",
        "report",
        "doctor",
        "api",
        "commands",
        "cli",
    ),
)
ENTRY = ("__init__", "__main__")  # the package itself: may import all; others take only its version
RUNTIME_NEEDS = {"errors", "run", "runtime"}


def part_of(path: Path) -> str:
    """`scaledl/run/files.py` -> run, `scaledl/cli.py` -> cli."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """First parts below scaledl of everything imported in a module of `package`, inside functions as well."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{prefix}.{alias.name}" for alias in node.names]
    split = [name.split(".") for name in names]
    return {parts[1] for parts in split if parts[0] == "scaledl" and len(parts) > 1}


def wrong_imports(part: str, imported: set[str]) -> set[str]:
    """What a part may not import: all that comes after it."""
    return {name for name in imported if name in ORDER and ORDER.index(name) > ORDER.index(part)}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_up_only(path: Path) -> None:
    part = part_of(path)
    if part in ENTRY:
        return
    assert part in ORDER, f"{part} has no place in the order of imports: give it one"
    package = ("scaledl", *path.relative_to(PACKAGE).parts[:-1])
    imported = imported_parts(ast.parse(path.read_text()), package)
    assert not wrong_imports(part, imported), f"{path} imports what comes after {part}"
    if part == "runtime":
        assert not (imported & set(ORDER)) - RUNTIME_NEEDS


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import scaledl.train", ("scaledl", "data"), {"train"}),
        ("from scaledl import api", ("scaledl", "data"), {"api"}),
        ("def f():\n    from scaledl.compress.prune import apply", ("scaledl", "data"), {"compress"}),
        ("from ..export import verify", ("scaledl", "data"), {"export"}),
        ("from .arrays import normalize", ("scaledl", "data"), {"data"}),
        ("from .. import cli", ("scaledl", "data"), {"cli"}),
        ("from .train import fit", ("scaledl",), {"train"}),
    ],
)
def test_every_way_to_import_is_seen(source: str, package: tuple[str, ...], expected: set[str]) -> None:
    assert imported_parts(ast.parse(source), package) == expected


def test_an_import_down_the_order_is_wrong() -> None:
    assert wrong_imports("data", {"train", "errors", "data"}) == {"train"}


@pytest.mark.parametrize("module", ["scaledl.console", "scaledl.config", "scaledl.run"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'rich', 'numpy', 'sklearn'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
