"""Parsing, help, hints, exit codes, and what starting up imports."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import scaledl.commands
from scaledl.cli import VERBS, main, parse
from scaledl.commands.arguments import positive_ints, split_arguments, tell_defaults
from scaledl.commands.output import command, print_json
from scaledl.config import Config
from scaledl.console import get_console
from scaledl.distributed.local import PROGRAM_VARIABLE
from scaledl.errors import Interrupted, Preempted, ScaledlError, UsageError, VerdictError
from scaledl.run import Run

pytestmark = pytest.mark.unit

HEAVY = ("torch", "numpy", "pytorch_lightning", "sklearn", "rich", "jinja2")
CONFIG_TOOLS = ("pydantic", "yaml")


def exit_code(arguments: list[str]) -> int:
    """Of main, whether it returns or argparse leaves."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS), ["config", "show"], ["config", "keys"]])
def test_help(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([*verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {' '.join(['scaledl', *verb])}")
    if len(verb) < 2:
        assert "exit codes: 0 success" in " ".join(text.split())


def test_every_verb_is_a_command() -> None:
    assert sorted(VERBS) == sorted(scaledl.commands.__all__)


NESTED = {
    "config": ["config", "show"],
    "find": ["find", "lr"],
    "generate": ["generate", "run", "--prompt", "x"],
    "data": ["data", "inspect"],
    "launch": ["launch", "slurm"],
}


@pytest.mark.parametrize("verb", [[verb] for verb in VERBS if verb not in NESTED] + list(NESTED.values()))
def test_every_verb_takes_json_and_quiet(verb: list[str]) -> None:
    needed = {"verify": ["FILE"], "bench": ["A"], "generate": ["--prompt", "A"]}.get(verb[0], [])
    args = parse([*verb, *needed, "--json", "--quiet"])
    assert args.json
    assert args.quiet


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["verb", "scaledl --help"]),
        (["trian"], ["unknown verb 'trian'", "did you mean 'train'?"]),
        (["xyzzy"], ["unknown verb 'xyzzy'", "allowed: train, data, compress"]),
        (["config"], ["show|check|keys|schema"]),
        (["config", "shw"], ["unknown action 'shw'", "did you mean 'show'?"]),
        (["config", "show", "--jsn"], ["--jsn", "did you mean '--json'?"]),
        (["config", "keys", "x"], ["unrecognized arguments: x"]),
        (["train", "--resum"], ["did you mean '--resume'?"]),
        (["train", "a.yaml", "--id=1", "--nmae=x"], ["--nmae=x", "did you mean '--name'?"]),
        (["train", "-x.yaml"], ["-x.yaml"]),
        (["train", "--id"], ["--id", "expected one argument"]),
        (["verify"], ["file"]),
        (["verify", "a", "b c"], ["'b c'"]),
        (["bench"], ["TARGET"]),
        (["evaluate", "--split", "tset"], ["--split", "'tset'", "did you mean 'test'?"]),
        (["runs", "\x1b[31m"], ["\\x1b[31m"]),
    ],
)
def test_wrong_arguments(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert "error: " in done.err
    for word in words:
        assert word in done.err


def test_overrides_stand_anywhere() -> None:
    args = parse(["train", "a.yaml", "x=1", "--id", "7", "y=2", "--json", "z=-3"])
    assert args.args == ["a.yaml", "x=1", "y=2", "z=-3"]
    assert (args.id, args.json) == ("7", True)


def test_a_name_with_a_leading_dash_after_two_dashes() -> None:
    assert parse(["train", "--", "-x.yaml"]).args == ["-x.yaml"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (None, [])),
        (["a.yaml"], ("a.yaml", [])),
        (["x=1", "a.yaml", "y=2"], ("a.yaml", ["x=1", "y=2"])),
        (["x=1"], (None, ["x=1"])),
        (["a.yaml", "b.yaml"], ("a.yaml", ["b.yaml"])),
        (["=" * 5000], (None, ["=" * 5000])),
        (["x=\0"], (None, ["x=\0"])),
    ],
)
def test_config_and_overrides(arguments: list[str], expected: tuple[str | None, list[str]]) -> None:
    assert split_arguments(arguments) == expected


def test_a_file_with_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.yaml").touch()
    assert split_arguments(["x=1", "lr=1.yaml"]) == ("lr=1.yaml", ["x=1"])


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e3", "abc", "", "65537", "9" * 5000, "٣"])
def test_numbers_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--rounds: got .*allowed: whole numbers from 1 to 65536"):
        positive_ints("--rounds", [text])


def test_numbers() -> None:
    assert positive_ints("--batch-sizes", ["1", " 64", "65536"]) == [1, 64, 65536]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ScaledlError("a failed run"), 1, "error: a failed run\n"),
        (UsageError("bad usage"), 2, "error: bad usage\n"),
        (VerdictError("the verdict is no"), 3, "error: the verdict is no\n"),
        (Preempted("stopped by SIGTERM"), 75, "error: stopped by SIGTERM\n"),
        (Interrupted("stopped by SIGINT"), 130, "error: stopped by SIGINT\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> None:
        raise error

    monkeypatch.setattr(scaledl.commands, "runs", fail)
    assert main(["runs"]) == code
    assert capsys.readouterr().err == text


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    get_console().configure()
    print_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": ({"d": -0.0},)})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": [{"d": -0.0}]}


def test_commands_are_shown_as_they_were_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/scaledl", "runs"])
    assert command("evaluate", Path("a b/$(x)")) == ".venv/bin/scaledl evaluate 'a b/$(x)'"
    monkeypatch.setattr(sys, "argv", ["/opt/my venv/bin/scaledl", "runs"])
    assert shlex.split(command("runs")) == ["/opt/my venv/bin/scaledl", "runs"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest"])
    assert command("runs") == "scaledl runs"


def probe(folder: Path, code: str, *arguments: str) -> str:
    """Run main in a fresh process; what `code` prints at its end."""
    source = (
        "import sys\nfrom scaledl.cli import main\n"
        f"try:\n    main({list(arguments)!r})\nexcept SystemExit:\n    pass\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.splitlines()[-1]


def imported(folder: Path, *arguments: str) -> set[str]:
    names = (*HEAVY, *CONFIG_TOOLS)
    return set(probe(folder, f"print('-', *(set({names!r}) & sys.modules.keys()))", *arguments).split()) - {"-"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a complete training run, which holds no real model."""
    run = Run.create(tmp_path / "runs", "name", "id", config=Config())
    run.begin()
    run.model_dir.mkdir()
    (run.model_dir / "weights.safetensors").write_bytes(b"x")
    run.record("model")
    run.finish("complete", test_accuracy=0.5)
    return tmp_path


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["config", "show", "--help"], ["trian"]])
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert imported(tmp_path, *arguments) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "nope.yaml"],
        ["chain", "optimizer.lr=-1"],
        ["compress", "--method", "prun"],
        ["compress", "nope"],
        ["bench", "a", "--rounds", "x"],
        ["runs"],
        ["runs", "--json"],
        ["lineage"],
        ["config", "show"],
        ["config", "keys"],
        ["config", "schema"],
    ],
)
def test_no_torch_without_need(arguments: list[str], folder: Path) -> None:
    assert not imported(folder, *arguments) & set(HEAVY)


def test_looking_at_files_imports_no_lightning(folder: Path) -> None:
    code = "print('pytorch_lightning' in sys.modules, 'torch' in sys.modules)"
    assert probe(folder, code, "evaluate", "nope.ts") == "False True"


@pytest.mark.parametrize("arguments", [["train"], ["chain", "compress.stages=[{method: ptq}]"], ["compress", "id"]])
def test_stop_signals_are_taken_before_torch_is_imported(arguments: list[str], folder: Path) -> None:
    code = """
import signal
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(signal.getsignal(signal.SIGTERM) == stop_flag.handle, file=sys.__stdout__)
            sys.exit()
"""
    extra = ["--method", "ptq"] if arguments[0] == "compress" else []
    source = (
        f"import sys\nfrom scaledl.distributed.preemption import stop_flag\n{code}\n"
        f"sys.meta_path.insert(0, Watch())\nfrom scaledl.cli import main\nmain({[*arguments, *extra]!r})"
    )
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "True", done.stderr


@pytest.mark.parametrize(("rank", "said"), [("0", 1), ("1", 0)])
def test_of_several_ranks_one_says_that_there_is_no_config_file(
    rank: str, said: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    tell_defaults("using", ["data.source=digits"])
    assert capsys.readouterr().out.count("using the defaults, and the command line's keys over them") == said


def test_ranks_do_not_say_again_what_the_command_that_started_them_has_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(PROGRAM_VARIABLE, "scaledl")
    tell_defaults("using", [])
    assert capsys.readouterr().out == ""


def test_a_rank_without_a_place_says_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong with the place is said by who joins the others."""
    monkeypatch.setenv("RANK", "1")
    tell_defaults("searching with", [])
    assert "searching with the defaults (" in capsys.readouterr().out
