"""What stages share: the config of their fine-tuning and the start that a resumed stage finds again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scaledl.compress.quantize import QAT_TRAINER, freeze_step
from scaledl.compress.stage import StageContext, finetune_config, start_model
from scaledl.config import Config, replace
from scaledl.config.schema import DistillConfig, MLPConfig, PruneConfig, QATConfig
from scaledl.errors import UsageError
from scaledl.models.structure import Model, new_model
from scaledl.run import Run

pytestmark = pytest.mark.unit

RUN_CONFIG = replace(
    Config(),
    {
        "trainer.epochs": 10,
        "trainer.early_stopping_patience": 3,
        "trainer.ema_decay": 0.9,
        "optimizer.lr": 0.02,
        "optimizer.weight_decay": 0.1,
        "scheduler.warmup_epochs": 2.0,
    },
)


def context(stage: Any, config: Config = RUN_CONFIG) -> StageContext:
    unused: Any = None
    return StageContext(config, stage, unused, unused, unused, 1)


def test_a_stage_without_settings_takes_shares_of_the_runs() -> None:
    config = finetune_config(context(PruneConfig()), epochs_share=0.5, lr_share=0.1)
    assert config.trainer.epochs == 5
    assert config.optimizer.lr == pytest.approx(0.002)
    assert config.optimizer.weight_decay == 0.1
    assert config.trainer.ema_decay == 0.9
    assert config.trainer.early_stopping_patience is None
    assert config.scheduler.warmup_epochs == 1.25


def test_a_stages_own_settings_win() -> None:
    stage = DistillConfig(epochs=3, lr=0.5, weight_decay=0.0, label_smoothing=0.2, ema_decay=0.5)
    config = finetune_config(context(stage), epochs_share=1.0, lr_share=1.0)
    assert (config.trainer.epochs, config.optimizer.lr, config.optimizer.weight_decay) == (3, 0.5, 0.0)
    assert (config.task.label_smoothing, config.trainer.ema_decay) == (0.2, 0.5)


def test_averages_of_the_run_give_way() -> None:
    """To a stage's own, and in quantization-aware training to none."""
    run = replace(RUN_CONFIG, {"trainer.ema_decay": None, "trainer.swa_start": 0.5, "trainer.swa_lr_ratio": 0.1})
    kept = finetune_config(context(PruneConfig(), run), epochs_share=0.5, lr_share=0.1)
    assert (kept.trainer.swa_start, kept.trainer.ema_decay) == (0.5, None)
    own = finetune_config(context(PruneConfig(ema_decay=0.9), run), epochs_share=0.5, lr_share=0.1)
    assert (own.trainer.swa_start, own.trainer.ema_decay) == (None, 0.9)
    assert replace(kept, QAT_TRAINER).trainer.swa_start is None
    stepped = replace(run, {"scheduler": {"name": "step", "step_epochs": 2, "gamma": 0.5}})
    assert replace(stepped, QAT_TRAINER).scheduler.name == "cosine"


def test_there_is_always_an_epoch() -> None:
    config = replace(RUN_CONFIG, {"trainer.epochs": 1, "scheduler.warmup_epochs": 0.0})
    assert finetune_config(context(QATConfig(), config), epochs_share=0.25, lr_share=0.1).trainer.epochs == 1


def test_qat_settings_are_valid_keys() -> None:
    config = replace(RUN_CONFIG, QAT_TRAINER)
    assert (config.trainer.precision, config.trainer.compile, config.trainer.ema_decay) == ("fp32", False, None)


@pytest.mark.parametrize(("fraction", "step"), [(0.0, 40), (0.25, 30), (0.9, 4)])
def test_the_freeze_comes_in_the_last_fraction(fraction: float, step: int) -> None:
    config = replace(RUN_CONFIG, {"trainer.epochs": 4, "data.batch_size": 10})
    assert freeze_step(config, 100, fraction) == step


def test_the_freeze_respects_a_limit_of_steps() -> None:
    config = replace(RUN_CONFIG, {"trainer.epochs": 4, "data.batch_size": 10, "trainer.max_steps": 8})
    assert freeze_step(config, 100, 0.5) == 4


def test_keys_and_labels_name_the_stage() -> None:
    assert context(PruneConfig()).key == "compress.stages[1]"
    assert context(PruneConfig()).label == "stage 2 prune"


def test_a_start_is_made_once_and_found_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "x", "1", kind="stage", config=Config())
    made = []

    def make() -> Model:
        made.append(1)
        return new_model(MLPConfig(family="mlp", hidden=[4]), (1, 8, 8), 10, seed=len(made))

    first, again = start_model(run, make), start_model(run, make)
    assert made == [1]
    assert torch.equal(first.module.head.weight, again.module.head.weight)
    (run.path / "start" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="start/weights"):
        start_model(run, make)
