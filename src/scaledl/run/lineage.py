"""Where a run comes from and what came of it, by the content of the models: moved folders are still found."""

from __future__ import annotations

from pathlib import Path

from scaledl.errors import UsageError
from scaledl.run.directory import Run
from scaledl.run.find import list_runs
from scaledl.run.manifest import FILE_NAME, Parent, content_hash


def lineage(run: Run, root: Path) -> list[tuple[int, Run | Parent]]:
    """Ancestors, the run itself, its descendants, each with its depth: 0 for the farthest ancestor, one more per step.

    Stages inside other runs count as ancestors, and as descendants of stages only. An ancestor that is not to be
    found under `root` nor at its recorded path with the recorded content stands as its Parent.
    """
    family = _Family(run, Path(root))
    rows = [*family.ancestors(run, -1, {run}), (0, run), *family.descendants(run, 1, {run})]
    top = min(depth for depth, _ in rows)
    return [(depth - top, member) for depth, member in rows]


class _Family:
    def __init__(self, run: Run, root: Path) -> None:
        runs = list_runs(root)
        self._top = [*runs, *([] if run in runs else [run])]
        self._nested = [stage for top in self._top for stage in _stages(top)]
        self._by_content: dict[str, list[Run]] = {}
        for known in (*self._top, *self._nested):
            sha256 = content_hash(known.manifest)
            if sha256 is not None:
                self._by_content.setdefault(sha256, []).append(known)

    def ancestors(self, run: Run, depth: int, seen: set[Run]) -> list[tuple[int, Run | Parent]]:
        rows: list[tuple[int, Run | Parent]] = []
        for parent in run.manifest.parents:
            found = self._resolve(parent)
            if found in seen:
                continue
            if found is not None:
                seen.add(found)
                rows += self.ancestors(found, depth - 1, seen)
            rows.append((depth, found or parent))
        return rows

    def descendants(self, run: Run, depth: int, seen: set[Run]) -> list[tuple[int, Run | Parent]]:
        rows: list[tuple[int, Run | Parent]] = []
        pool = self._nested if run.kind == "stage" else []
        for other in (*self._top, *pool):
            if other not in seen and any(self._resolve(parent) == run for parent in other.manifest.parents):
                seen.add(other)
                rows += [(depth, other), *self.descendants(other, depth + 1, seen)]
        return rows

    def _resolve(self, parent: Parent) -> Run | None:
        """Several runs may have the same content (the same training twice): the named one goes first."""
        same = self._by_content.get(parent.sha256, [])
        named = [run for run in same if (run.name, run.id) == (parent.name, parent.id)]
        return next(iter((*named, *same)), None) or _at_recorded_path(parent)


def _stages(run: Run) -> list[Run]:
    found = []
    for manifest in sorted(run.stages.glob(f"*/{FILE_NAME}")):
        try:
            found.append(Run.open(manifest.parent))
        except UsageError:
            continue
    return found


def _at_recorded_path(parent: Parent) -> Run | None:
    try:
        run = Run.open(parent.path)
        return run if content_hash(run.manifest) == parent.sha256 else None
    except UsageError:
        return None
