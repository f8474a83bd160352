"""A set of texts from its file to an exported one that takes texts, with an interruption that changes nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from scaledl import api
from scaledl.config import Config, load_config, replace
from scaledl.data import build_data
from scaledl.distributed.preemption import stop_flag
from scaledl.errors import Preempted
from scaledl.models.structure import load_model
from scaledl.run import Run
from scaledl.runtime import load
from scaledl.tasks.model import model_for
from scaledl.train import fit

pytestmark = pytest.mark.integration


@pytest.fixture
def config(tmp_path: Path) -> Config:
    words = {"up": "fine good happy", "down": "sad bad awful"}
    rows = [
        f"{words[label].split()[i % 3]} and {'very ' * (i % 5)}{words[label].split()[i // 3 % 3]} {i},{label}"
        for i in range(60)
        for label in words
    ]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    settings = load_config(None, ["data.prepare.text=text", "data.prepare.near_duplicates=keep"])
    api.prepare_data(str(tmp_path / "t.csv"), tmp_path / "set", settings)
    keys = [
        *(f"data.source={tmp_path}/set", f"run.root={tmp_path}/runs", "run.name=texts", "data.batch_size=16"),
        *("model.family=transformer", "model.width=16", "model.heads=2", "model.layers=1", "trainer.epochs=3"),
        *("optimizer.lr=0.01", "data.augment.text.drop=0.1", "data.augment.text.mask=0.1", "data.sampling=balanced"),
        *("trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.num_threads=1"),
        "trainer.checkpoint_every_n_steps=2",
    ]
    return load_config(None, keys)


class StopAt(pl.Callback):
    """A stop signal after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            stop_flag.signum = signal.SIGTERM


def interrupted(config: Config, step: int) -> None:
    data = build_data(config.data, config.run.seed)
    run = Run.open_or_create(Path(config.run.root), "texts", config.run.id, kind="train", config=config)
    try:
        with pytest.raises(Preempted), run.attempt():
            fit(config, run, data, model_for(config, data.spec), callbacks=[StopAt(step)])
    finally:
        stop_flag.clear()


def test_texts_train_resume_and_leave_as_a_file_that_takes_texts(config: Config) -> None:
    torch.manual_seed(0)  # dropout draws from it, as in a process of its own
    whole = api.train(replace(config, {"run.id": "whole"}))
    stopped = replace(config, {"run.id": "stopped"})
    torch.manual_seed(0)
    interrupted(stopped, 8)
    again = api.train(stopped)
    state, other = (load_model(run.model_dir).module.state_dict() for run in (whole, again))
    assert all(torch.equal(value, other[name]) for name, value in state.items())
    artifact, verification = api.export(whole)
    assert verification.ok, verification.failures
    predictor = load(artifact.path)
    said = predictor.predict(["good and very happy", "awful and very very bad"]).argmax(1).tolist()
    assert [predictor.labels[number] for number in said] == ["up", "down"]
