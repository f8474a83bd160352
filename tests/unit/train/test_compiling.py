"""Compilation is chosen where a training is long enough, and tried before it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch._inductor.config

from scaledl.config import Config, load_config
from scaledl.data import Arrays, Batch, DataModule, DataSpec
from scaledl.distributed.ranks import Ranks
from scaledl.models.structure import new_model
from scaledl.run import Run
from scaledl.runtime import jit
from scaledl.train import compiling, fit, settings
from scaledl.train.settings import Settings, resolve_settings

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _own_cache_and_no_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch.compiler.reset()
    with torch._inductor.config.patch(compile_threads=1):
        yield


WORDS = [
    *("model.family=mlp", "model.hidden=[8]", "data.batch_size=16", "trainer.num_threads=1"),
    *("trainer.precision=fp32", "trainer.accelerator=cpu"),
]


def settings_of(folder: Path, *words: str, world_size: int = 1) -> Settings:
    config = load_config(None, [*WORDS, *words])
    model, ranks = new_model(config.model, (1, 4, 4), 2, 0), Ranks(0, world_size)
    return resolve_settings(config, _run(folder, config), images(), model, ranks)


def images() -> DataModule:
    pixels = torch.randint(0, 256, (32, 4, 4, 1), dtype=torch.uint8)
    arrays = Arrays(pixels, torch.arange(32) % 2, torch.arange(32))
    return DataModule(DataSpec("x", (1, 4, 4), ("a", "b"), (0.5,), (0.5,), "f"), arrays, arrays, arrays)


def _run(folder: Path, config: Config) -> Run:
    run = Run.open_or_create(folder, "x", "1", config=config)
    run.checkpoints.mkdir(exist_ok=True)
    return run


def test_a_short_training_is_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert settings_of(tmp_path, "trainer.epochs=3").compile is False
    assert "compile auto" not in capsys.readouterr().out


def test_a_long_training_compiles_where_that_pays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 tiny steps are never worth a compilation; of a million the trial decides, and says what it found."""
    monkeypatch.setattr(compiling, "_LONG", 0.0)
    assert settings_of(tmp_path / "short", "trainer.epochs=50").compile is False
    assert "compile auto: no, a compiled step takes" in capsys.readouterr().out
    chosen = settings_of(tmp_path / "long", "trainer.epochs=1000000").compile
    assert f"compile auto: {'yes' if chosen else 'no'}, a compiled step takes" in capsys.readouterr().out
    assert settings_of(tmp_path / "long", "trainer.epochs=1").compile is chosen, "the first attempt decides"


def test_where_compiling_fails_training_goes_on_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_LONG", 0.0)
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert settings_of(tmp_path, "trainer.epochs=50").compile is False
    assert "compile auto: no, compiling fails here" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "expected"), [("true", True), ("false", False)])
def test_a_word_decides_and_an_older_file_of_settings_is_completed(tmp_path: Path, word: str, expected: bool) -> None:
    assert settings_of(tmp_path, f"trainer.compile={word}").compile is expected
    path = tmp_path / "x/1/checkpoints/settings.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "compile"}))
    assert settings_of(tmp_path, f"trainer.compile={word}").compile is expected


def test_where_memory_is_short_a_smaller_batch_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def short_of_memory(task: object, batch: Batch) -> str:
        tried.append(len(batch.ids))
        if len(tried) < 3:
            raise torch.OutOfMemoryError("made up by the test")
        return "bf16"

    monkeypatch.setattr(settings, "resolve_precision", short_of_memory)
    assert settings_of(tmp_path, "trainer.precision=auto").precision == "bf16"
    assert tried == [16, 8, 4]


def test_where_no_sample_fits_the_training_has_to_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> str:
        raise torch.OutOfMemoryError("made up by the test")

    monkeypatch.setattr(settings, "resolve_precision", no_memory)
    monkeypatch.setattr(settings, "worth_compiling", no_memory)
    found = settings_of(tmp_path, "trainer.precision=auto", "trainer.epochs=1000")
    assert (found.precision, found.compile) == ("fp32", False)


def test_what_one_rank_has_of_a_batch_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def measured(task: object, batch: Batch) -> str:
        tried.append(len(batch.ids))
        return "fp32"

    monkeypatch.setattr(settings, "resolve_precision", measured)
    settings_of(tmp_path, "trainer.precision=auto", "trainer.accumulate=2", world_size=4)
    assert tried == [2]


def test_the_result_of_a_compiled_training_is_plain(tmp_path: Path) -> None:
    """So that it can be traced, and is evaluated without compiling it once more."""
    config = load_config(None, [*WORDS, "trainer.epochs=1", "trainer.compile=true"])
    run = Run.open_or_create(tmp_path, "x", "1", config=config)
    with run.attempt():
        trained = fit(config, run, images(), new_model(config.model, (1, 4, 4), 2, 0)).model.module
    x = torch.zeros(3, 1, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(jit.trace_and_freeze(trained, x)(x), trained(x))


def test_each_module_is_compiled_however_many_were_before() -> None:
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for width in (3, 4, 5):
            module = torch.nn.Linear(2, width)
            compiling.compile_(module)
            assert module(torch.zeros(1, 2)).shape == (1, width)
