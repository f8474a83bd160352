"""Where a config comes from: paths that are no file, and files that include others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaledl.config import ConfigError, load_config
from scaledl.config.schema import MLPConfig, ResNetConfig

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**texts: str) -> None:
    for name, text in texts.items():
        Path(f"{name}.yaml").write_text(text)


def message_of(path: str | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_missing_file_names_the_nearest() -> None:
    write(resnet="run: {}")
    assert message_of("resent.yaml") == "config error: resent.yaml: no such file; did you mean 'resnet.yaml'?"


def test_a_key_without_its_value_is_told_from_a_file() -> None:
    message = message_of("data.batch_size")
    assert message == "config error: data.batch_size: no such file; to set a key, write data.batch_size=VALUE"
    assert message_of("wide.yaml") == "config error: wide.yaml: no such file"


def test_directory_lists_what_is_in_it() -> None:
    write(a="run: {}")
    message = message_of(Path.cwd())
    assert "got a directory; allowed: a YAML file" in message
    assert "a.yaml" in message


@pytest.mark.timeout(20)
def test_fifo_and_device_do_not_hang() -> None:
    os.mkfifo("pipe.yaml")
    assert "pipe.yaml: got a pipe (FIFO); allowed: a YAML file" in message_of("pipe.yaml")
    assert "/dev/zero: got a device" in message_of("/dev/zero")


def test_symlink_loop_is_said() -> None:
    Path("a.yaml").symlink_to("b.yaml")
    Path("b.yaml").symlink_to("a.yaml")
    assert "a.yaml: cannot be read: Too many levels of symbolic links" in message_of("a.yaml")


@pytest.mark.parametrize("path", ["a\0b.yaml", "x" * 5000 + ".yaml", ""])
def test_impossible_paths_are_usage_errors(path: str) -> None:
    message_of(path)


@pytest.mark.parametrize("name", ["a b.yaml", "a\nb.yaml", "-x.yaml", ";$(touch marker).yaml", "é.yaml"])
def test_odd_names_work_and_are_shown_on_one_line(name: str) -> None:
    Path(name).write_text("optimizer:\n  lr: -1\n")
    message = message_of(name)
    assert message.count("\n") == 0
    assert ":2): got -1" in message
    Path(name).write_text("optimizer:\n  lr: 0.5\n")
    assert load_config(name).optimizer.lr == 0.5
    assert not Path("marker").exists()


def test_run_is_named_after_the_file_unless_named() -> None:
    write(teacher="run: {seed: 1}", named="run: {name: x}", null="run: {name: null}")
    assert load_config("teacher.yaml").run.name == "teacher"
    assert load_config("named.yaml").run.name == "x"
    assert load_config("null.yaml").run.name is None
    assert load_config("teacher.yaml", ["run.name=y"]).run.name == "y"
    Path("my config.v2.yaml").write_text("run: {}")
    assert load_config("my config.v2.yaml").run.name == "my-config.v2"


def test_base_is_relative_to_the_file_and_later_wins() -> None:
    Path("sub").mkdir()
    write(low="optimizer: {name: sgd, lr: 0.1, momentum: 0.5}\ndata: {batch_size: 4}", mid="optimizer: {lr: 0.2}")
    Path("sub/top.yaml").write_text("base: [../low.yaml, ../mid.yaml]\ndata: {eval_batch_size: 8}\n")
    config = load_config("sub/top.yaml")
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.2, 0.5)
    assert (config.data.batch_size, config.data.eval_batch_size) == (4, 8)


def test_errors_in_a_base_have_its_line() -> None:
    write(low="optimizer:\n  lr: -1\n  momentum: 2\n", top="base: low.yaml\noptimizer:\n  momentum: 3\n")
    message = message_of("top.yaml")
    assert "optimizer.lr (low.yaml:2): got -1" in message
    assert "optimizer.momentum (top.yaml:3): got 3" in message


def test_lists_are_replaced_and_another_family_replaces_the_model() -> None:
    low = "model: {family: resnet, depth: 8, num_classes: 10}\ncompress: {stages: [{method: prune}, {method: qat}]}"
    write(low=low, top="base: low.yaml\nmodel: {family: mlp, hidden: [4]}\ncompress: {stages: [{method: ptq}]}")
    config = load_config("top.yaml")
    assert config.model == MLPConfig(family="mlp", hidden=[4])
    assert [stage.method for stage in config.compress.stages] == ["ptq"]


def test_same_family_is_merged() -> None:
    write(low="model: {family: resnet, depth: 8}", top="base: low.yaml\nmodel: {family: resnet, width: 4}")
    assert load_config("top.yaml").model == ResNetConfig(family="resnet", depth=8, width=4)


def test_circles_are_named() -> None:
    write(a="base: b.yaml", b="run: {}\nbase: a.yaml", self="base: ./self.yaml")
    message = message_of("a.yaml")
    assert "base (b.yaml:2): got a circle: a.yaml -> b.yaml -> a.yaml" in message
    assert "self.yaml -> self.yaml" in message_of("self.yaml")


def test_depth_and_number_of_files_are_limited() -> None:
    write(f0="run: {}", **{f"f{i}": f"base: f{i - 1}.yaml" for i in range(1, 15)})
    write(g0="run: {}", **{f"g{i}": f"base: [g{i - 1}.yaml, g{i - 1}.yaml]" for i in range(1, 9)})
    assert load_config("f9.yaml").run.name == "f9"
    assert "too many included files; allowed: at most 10 levels" in message_of("f14.yaml")
    assert "too many included files" in message_of("g8.yaml")


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("lwo.yaml", "base (top.yaml:1): lwo.yaml: no such file; did you mean 'low.yaml'?"),
        ("3", "base (top.yaml:1): got 3; allowed: a file or a list of files"),
        ("", "base (top.yaml:1): got null; allowed: a file or a list of files"),
        ("{a: b}", "base (top.yaml:1): got {a: 'b'}; allowed: a file or a list of files"),
        ("[[low.yaml]]", "allowed: a file or a list of files"),
        ("list.yaml", "list.yaml:1: got a list at the top"),
    ],
)
def test_bad_base(base: str, part: str) -> None:
    write(low="run: {}", top=f"base: {base}\n", list="- 1")
    assert part in message_of("top.yaml")


def test_unreadable_bases_and_bad_overrides_come_together() -> None:
    write(top="base: [a.yaml, tabs.yaml]\n", tabs="run:\n\tseed: 1")
    message = message_of("top.yaml", "lr")
    for part in ("3 problems", "a.yaml: no such file", "tabs.yaml:2: got a tab", "allowed: key=value"):
        assert part in message
