"""What a config file may hold: every kind of bad text has its own clear error, with file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scaledl.config import ConfigError, load_config
from scaledl.config.scalars import resolve_scalar

pytestmark = pytest.mark.unit

Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes x.yaml in the working directory, so that origins are short."""
    monkeypatch.chdir(tmp_path)

    def to_file(text: str | bytes) -> Path:
        path = Path("x.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to_file


def error_of(path: str | Path | None, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value


BAD_FILES = {
    "empty": ("", ["x.yaml: got an empty file", "'model:'"]),
    "comments": ("# a\n# b\n", ["x.yaml: got an empty file"]),
    "null": ("null\n", ["x.yaml: got an empty file"]),
    "no content": ("---\n", ["x.yaml: got an empty file"]),
    "list": ("\n- 1\n- 2\n", ["x.yaml:2: got a list at the top", "sections such as"]),
    "scalar": ("resnet\n", ["x.yaml:1: got a single value at the top"]),
    "syntax": ("model: {family: resnet\n", ["x.yaml:", "not valid YAML", "expected ',' or '}'"]),
    "tab": ("run:\n\tseed: 1\n", ["x.yaml:2: got a tab in the indentation", "spaces only"]),
    "later tab": ("run:\n  seed: 1\n\tname: a\n", ["x.yaml:3: got a tab in the indentation"]),
    "duplicate": ("optimizer:\n  lr: 0.1\n  lr: 0.2\n", ["optimizer.lr (x.yaml:3)", "given twice", "x.yaml:2"]),
    "tag": (
        "run:\n  name: !!python/object/apply:os.system ['touch marker']\n",
        ["run.name (x.yaml:2): got the YAML tag '!!python/object/apply:os.system'", "remove the tag"],
    ),
    "tag on key": ("!!python/name:os.system '': 1\n", ["x.yaml:1", "the YAML tag"]),
    "unknown tag": ("run: !thing 3\n", ["run (x.yaml:1): got the YAML tag '!thing'"]),
    "merge key": ("run:\n  <<: {seed: 1}\n", ["run (x.yaml:2)", "merge key '<<'", "use 'base: other.yaml'"]),
    "documents": ("run: {seed: 1}\n---\nrun: {seed: 2}\n", ["x.yaml:2: got a second document", "one YAML document"]),
    "unknown alias": ("run: *a\n", ["run (x.yaml:1): got an alias to the unknown anchor 'a'"]),
    "recursive alias": ("run: &a {name: *a}\n", ["run.name (x.yaml:1): got the alias 'a' inside its own anchor"]),
    "key is a list": ("? [a, b]\n: 1\n", ["x.yaml:1: got a key that is not a word"]),
    "control character": ("run:\n  name: a\x07b\n", ["x.yaml:2: got the character U+0007"]),
    "zero byte": ("run:\x00\n", ["x.yaml:1: got the character U+0000"]),
    "null section": ("optimizer:\n", ["optimizer (x.yaml:1): got null", "a section with the keys name, lr"]),
    "unknown section": (
        "run: {}\noptimiser: {lr: 1}\n",
        ["optimiser (x.yaml:2): unknown key; did you mean 'optimizer'?"],
    ),
    "dotted key": ("optimizer.lr: 1\n", ["optimizer.lr (x.yaml:1): unknown key; write optimizer: {lr: …}"]),
    "number as key": ("1: 2\n", ["1 (x.yaml:1): unknown key"]),
    "not UTF-8": (b"run:\n  name: \xe9t\xe9\n", ["x.yaml:2: got the byte 0xE9", "UTF-8"]),
    "UTF-16": ("run: {}\n".encode("utf-16"), ["x.yaml:1: got the byte 0xFF", "UTF-8"]),
}


@pytest.mark.parametrize(("text", "parts"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_has_its_clear_error(write: Write, text: str | bytes, parts: list[str]) -> None:
    message = str(error_of(write(text)))
    for part in parts:
        assert part in message
    assert not Path("marker").exists()


def nested(depth: int) -> str:
    return "a: " + "[" * depth + "]" * depth


BOMBS = {
    "aliases": "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]),
    "wide aliases": "a: &a [" + "1, " * 5000 + "]\nb: [*a, *a, *a, *a]",
    "nesting": nested(10_000),
    "block nesting": "\n".join(f"{' ' * i}a:" for i in range(300)),
    "alias nesting": "\n".join(["a0: &a0 1", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))]),
    "many values": "- 1\n" * 200_000,
    "2 MB": "#" * 2_000_000,
}


@pytest.mark.parametrize(
    ("text", "limit"), list(zip(BOMBS.values(), ["20000", "20000", "50", "50", "50", "20000", "1 MB"], strict=True))
)
def test_bombs_are_refused_at_a_limit(write: Write, text: str, limit: str) -> None:
    message = str(error_of(write(text)))
    assert "x.yaml" in message
    assert f"at most {limit}" in message or f"of at most {limit}" in message


def test_values_may_be_nested_below_the_limit(write: Write) -> None:
    assert "a (x.yaml:1): unknown key" in str(error_of(write(nested(49))))


@pytest.mark.parametrize(
    "text", ["\ufeffoptimizer:\n  lr: 1e-3\n", "optimizer:\r\n  lr: 1e-3\r\n"], ids=["BOM", "CRLF"]
)
def test_byte_order_mark_and_crlf_are_fine(write: Write, text: str) -> None:
    assert load_config(write(text)).optimizer.lr == 0.001


def test_aliases_are_expanded(write: Write) -> None:
    config = load_config(
        write("data: {augment: &a {crop: 3}}\nmodel: {width: 8}\n# *a\ntrainer: {epochs: &n 7}\nrun: {seed: *n}\n")
    )
    assert (config.run.seed, config.data.augment.crop) == (7, 3)


SCALARS = {
    "1e-3": 0.001,
    "1e3": 1000.0,
    "1E+2": 100.0,
    "-1.5": -1.5,
    ".5": 0.5,
    "0o17": 15,
    "0x1F": 31,
    "017": 17,
    "true": True,
    "False": False,
    "~": None,
    "": None,
    "no": "no",
    "on": "on",
    "yes": "yes",
    "1_000": "1_000",
    "1:30": "1:30",
    "0b101": "0b101",
    "2026-11-23": "2026-11-23",
    "-.inf": float("-inf"),
    "1e": "1e",
    ".": ".",
    "-": "-",
    "9" * 5000: "9" * 5000,
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=lambda x: repr(x)[:12])
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = resolve_scalar(text)
    assert found == value
    assert type(found) is type(value)


FIELDS = [
    ("optimizer.lr", "1e-3", None),
    ("trainer.sync_batchnorm", "no", ["got the text 'no'", "true or false", "write false"]),
    ("trainer.sync_batchnorm", "on", ["got the text 'on'", "true or false", "write true"]),
    ("trainer.channels_last", "yes", ["got 'yes'", "true or false or auto"]),
    ("trainer.epochs", "1_000", ["got the text '1_000'", "a whole number from 1 to 1000000", "write 1000"]),
    ("trainer.epochs", "1:30", ["got the text '1:30'", "a whole number"]),
    ("trainer.epochs", "1e3", ["got 1000.0", "a whole number", "write 1000"]),
    ("trainer.epochs", "0o17", None),
    ("optimizer.lr", "'0.1'", ["got the text '0.1'", "a number greater than 0", "without quotes"]),
]


@pytest.mark.parametrize(("key", "text", "parts"), FIELDS)
def test_same_rules_in_files_and_on_the_command_line(
    write: Write, key: str, text: str, parts: list[str] | None
) -> None:
    section, name = key.split(".")
    path = write(f"{section}:\n  {name}: {text}\n")
    if parts is None:
        in_file = getattr(getattr(load_config(path), section), name)
        assert in_file == getattr(getattr(load_config(None, [f"{key}={text}"]), section), name)
        return
    in_file_message, typed_message = str(error_of(path)), str(error_of(None, f"{key}={text}"))
    assert f"{key} (x.yaml:2)" in in_file_message
    assert f"{key} (command line)" in typed_message
    for part in parts:
        assert part in in_file_message
        assert part in typed_message
