"""Which run is meant, and what is said when none is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scaledl.config import Config
from scaledl.errors import UsageError
from scaledl.run import Parent, Run, default_id, find_run, lineage, list_runs

pytestmark = pytest.mark.unit


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def make(
    root: Path, name: str, id: str | None = None, *, kind: str = "train", status: str | None = "complete",
    parents: tuple[Parent, ...] = (),
) -> Run:  # fmt: skip
    run = Run.create(root, name, id, kind=kind, config=Config(), parents=parents)
    add_model(run)
    if status:
        run.finish(status)
    return run


def add_model(run: Run) -> None:
    run.model_dir.mkdir()
    (run.model_dir / "weights").write_text(run.label)
    run.record("model")


# default_id


@pytest.mark.parametrize(
    ("id", "variables", "expected"),
    [
        (None, {}, None),
        ("mine", {"SLURM_JOB_ID": "5"}, "mine"),
        (None, {"SLURM_JOB_ID": "5"}, "5"),
        (None, {"SLURM_JOB_ID": ""}, None),
        (None, {"SLURM_JOB_ID": "6", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}, "5_2"),
        (None, {"SLURM_JOB_ID": "6", "SLURM_ARRAY_JOB_ID": "5"}, "6"),
    ],
)
def test_default_id(
    monkeypatch: pytest.MonkeyPatch, id: str | None, variables: dict[str, str], expected: str | None
) -> None:
    for key in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(key, raising=False)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert default_id(Config.model_validate({"run": {"id": id}})) == expected


def test_a_job_id_that_is_a_path_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "../5")
    with pytest.raises(UsageError, match="Slurm job id"):
        default_id(Config())


# list_runs


def test_list_is_newest_first_and_skips_what_is_damaged(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(root, "a", "x"), make(root, "b", "1"), make(root, "a", "0")]
    broken = make(root, "c", "broken")
    (broken.path / "manifest.json").write_text("{")
    (root / "a/notes").mkdir()
    (root / "file").write_text("x")
    assert list_runs(root) == runs[::-1]
    assert "skipped: runs/c/broken/manifest.json is damaged" in capsys.readouterr().err
    assert list_runs(root) == runs[::-1]
    assert capsys.readouterr().err == ""


def test_list_of_nothing(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []


# find_run


def test_nothing_named_gives_the_newest_complete_training(root: Path) -> None:
    wanted = make(root, "a")
    make(root, "a", status="failed")
    make(root, "a", status=None)
    compressed = make(root, "a", kind="compress")
    compressed.nested("stages/01-prune", config=Config()).finish("complete")
    assert find_run(None, root) == wanted
    assert find_run(None, root, kinds=("train", "compress")) == compressed


def test_every_way_to_name_a_run(root: Path, tmp_path: Path) -> None:
    old, new = make(root, "a", "1"), make(root, "a", "2")
    for ref in ("a/1", "runs/a/1", str(tmp_path / "runs/a/1"), "1", "runs/a/1/", "./runs/a/1"):
        assert find_run(ref, root).id == old.id
    for ref in ("a", "a/latest", "runs/a", "runs/a/latest", "a/"):
        assert find_run(ref, root).id == new.id


def test_a_name_skips_what_is_not_complete(root: Path) -> None:
    wanted = make(root, "a", "1")
    make(root, "a", "2", status=None)
    assert find_run("a", root) == wanted
    assert find_run("a", root, status=None).id == "2"
    assert find_run("a", root, status=("running", "preempted")).id == "2"


def test_a_stage_is_found_by_path(root: Path) -> None:
    stage = make(root, "a", "1", kind="compress").nested("stages/01-prune", config=Config())
    stage.finish("complete")
    for ref in ("runs/a/1/stages/01-prune", "a/1/stages/01-prune"):
        assert find_run(ref, root, kinds=("stage",)) == stage


def test_a_dangling_latest_is_tolerated(root: Path) -> None:
    wanted = make(root, "a", "1")
    shutil.rmtree(make(root, "a", "2").path)
    assert (root / "a/latest").is_symlink()
    for ref in ("a/latest", "a", None):
        assert find_run(ref, root) == wanted
    (root / "a/latest").unlink()
    assert find_run("a/latest", root) == wanted


def test_no_run_yet_says_how_to_make_one(root: Path) -> None:
    for ref in (None, "a"):
        with pytest.raises(UsageError, match=r"no run yet.*scaledl train configs/digits\.yaml"):
            find_run(ref, root)


def test_no_suitable_run_lists_what_is_there(root: Path) -> None:
    make(root, "a", "1", status="failed")
    make(root, "b", "1", kind="compress")
    with pytest.raises(
        UsageError,
        match=r"no complete train run under runs; there are b/1 \(compress, complete\), a/1 \(train, failed\)",
    ):
        find_run(None, root)


def test_a_killed_run_is_called_killed(root: Path) -> None:
    make(root, "a", "1", status=None).update(pid_start=1)
    with pytest.raises(UsageError, match="a/1 is killed; a complete one is needed"):
        find_run("a/1", root)


def test_another_kind_is_refused_by_name(root: Path) -> None:
    make(root, "b", "1", kind="compress")
    with pytest.raises(UsageError, match="b/1 is a compress run; train or stage is needed"):
        find_run("b/1", root, kinds=("train", "stage"))


def test_an_id_under_two_names_is_ambiguous(root: Path) -> None:
    make(root, "a", "1")
    make(root, "b", "1")
    with pytest.raises(UsageError, match="'1' is ambiguous: it may be runs/a/1, runs/b/1"):
        find_run("1", root)


def test_a_path_and_a_name_are_ambiguous_only_when_they_differ(root: Path) -> None:
    make(root, "a", "1")
    shutil.copytree(root / "a", "a", symlinks=True)
    with pytest.raises(UsageError, match="'a' is ambiguous"):
        find_run("a", root)
    shutil.rmtree("a")
    Path("a").symlink_to(root / "a")
    assert find_run("a", root).id == "1"


@pytest.mark.parametrize(
    "ref", ["", "nope", "a/nope", "../..", "/", "a\0b", "a\nb", "-x", "x" * 5000, "runs/a/1/manifest.json"]
)
def test_refs_that_mean_nothing(root: Path, ref: str) -> None:
    make(root, "a", "1")
    with pytest.raises(UsageError, match=r"no run .*there are a/1 \(train, complete\)"):
        find_run(ref, root)


# lineage


def test_lineage_is_known_by_content(root: Path) -> None:
    grandparent = make(root, "a", "1")
    parent = make(root, "b", "1", kind="compress", parents=(grandparent.as_parent(),))
    child = make(root, "c", "1", kind="compress", parents=(parent.as_parent(),))
    make(root, "d", "unrelated")
    expected = [(0, grandparent), (1, parent), (2, child)]
    assert lineage(parent, root) == expected
    assert lineage(child, root) == [(0, grandparent), (1, parent), (2, child)]
    moved = root / "elsewhere/renamed"
    moved.parent.mkdir()
    grandparent.path.rename(moved)
    assert lineage(parent, root) == [(0, Run.open(moved)), *expected[1:]]


def test_an_ancestor_that_is_gone_is_shown_as_recorded(root: Path) -> None:
    parent = make(root, "a", "1")
    record = parent.as_parent()
    child = make(root, "b", "1", kind="compress", parents=(record,))
    shutil.rmtree(parent.path)
    assert lineage(child, root) == [(0, record), (1, child)]


def test_a_retrained_folder_is_not_the_ancestor(root: Path) -> None:
    parent = make(root, "a", "1")
    record = parent.as_parent()
    child = make(root, "b", "1", kind="compress", parents=(record,))
    (parent.model_dir / "weights").write_text("trained again")
    parent.record("model")
    assert lineage(child, root) == [(0, record), (1, child)]
    assert lineage(parent, root) == [(0, parent)]


def test_an_ancestor_outside_the_root_is_found_at_its_path(root: Path, tmp_path: Path) -> None:
    parent = make(tmp_path / "other", "a", "1")
    child = make(root, "b", "1", parents=(parent.as_parent(),))
    assert lineage(child, root) == [(0, parent), (1, child)]


def test_stages_have_lineage_and_do_not_crowd_that_of_the_source(root: Path) -> None:
    source = make(root, "a", "1")
    run = make(root, "a", "2", kind="compress", parents=(source.as_parent(),))
    first = run.nested("stages/01-distill", config=Config(), parents=(source.as_parent(),))
    add_model(first)
    second = run.nested("stages/02-prune", config=Config(), parents=(first.as_parent(),))
    assert lineage(source, root) == [(0, source), (1, run)]
    assert lineage(first, root) == [(0, source), (1, first), (2, second)]
    assert lineage(second, root) == [(0, source), (1, first), (2, second)]


def test_the_same_training_twice_does_not_share_its_children(root: Path) -> None:
    one, two = (Run.create(root, "a", id, config=Config()) for id in "12")
    for run in (one, two):
        run.model_dir.mkdir()
        (run.model_dir / "weights").write_text("equal")
        run.record("model")
    child = make(root, "b", "1", parents=(one.as_parent(),))
    assert one.as_parent().sha256 == two.as_parent().sha256
    assert lineage(two, root) == [(0, two)]
    assert lineage(one, root) == [(0, one), (1, child)]


def test_a_circle_ends(root: Path) -> None:
    run = make(root, "a", "1")
    run.update(parents=(run.as_parent(),))
    assert lineage(run, root) == [(0, run)]
