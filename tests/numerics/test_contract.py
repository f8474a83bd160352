"""Every family with every task that goes with it: a training that learns, a save that loses no bit, pruning, int8, and
a file that is verified. The table is made from what families accept and what tasks want, so what is added is in it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.compress.prune import prune_model
from scaledl.config import Config, replace
from scaledl.config.registry import TASKS
from scaledl.config.schema import PruneConfig
from scaledl.data import Arrays, DataModule, DataSpec
from scaledl.data.arrays import statistics
from scaledl.data.datamodule import in_shape_of
from scaledl.errors import UsageError
from scaledl.evaluate import evaluate_split
from scaledl.export import export_and_verify, export_torchscript
from scaledl.export.reference import outputs_of
from scaledl.models.accepts import ACCEPTS
from scaledl.models.quantized import calibrating, convert, is_quantized, prepare_ptq
from scaledl.models.structure import Model, load_model, save_model
from scaledl.run import Run
from scaledl.runtime import load
from scaledl.runtime.signature import Inputs
from scaledl.tasks.model import model_for
from scaledl.train import fit

pytestmark = pytest.mark.numerics

CODER = {"channels": [8], "hidden": [32], "latent": 8}
SECTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": [32]},
    "resnet": {"depth": 8, "width": 8},
    "cnn": {"channels": [16, 16], "hidden": [16]},
    "vit": {"width": 32, "layers": 2, "heads": 4, "patch_size": 2},
    "unet": {"width": 8, "depth": 2},
    "autoencoder": CODER,
    "vae": CODER,
    "rnn": {"hidden": 32},
    "lstm": {"hidden": 32},
    "gru": {"hidden": 32},
    "transformer": {"width": 32, "layers": 2, "heads": 4},
    "gpt": {"width": 32, "layers": 2, "heads": 4},
}
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
VECTOR, STEPWISE = ("vector",), ("vector", "steps")
# Models of other libraries, and one's own: label, name, args, what each kind of inputs leads to.
EXTERNAL: tuple[tuple[str, str, dict[str, Any], dict[Any, tuple[str, ...]]], ...] = (
    ("resnet10t", "timm:resnet10t", {}, {"image": VECTOR}),
    (
        "timm-vit",
        "timm:vit_tiny_patch16_224",
        {"img_size": 8, "patch_size": 2, "depth": 2, "embed_dim": 32, "num_heads": 4},
        {"image": VECTOR},
    ),
    ("resnet18", "torchvision:resnet18", {}, {"image": VECTOR}),
    ("bert", "hf:bert", TINY, {"text": STEPWISE}),
    ("roberta", "hf:roberta", TINY, {"text": STEPWISE}),
    ("gpt2", "hf:gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2}, {"text": STEPWISE}),
    ("hf-vit", "hf:vit", {**TINY, "patch_size": 2}, {"image": VECTOR}),
    ("own", "tests.numerics.test_contract:Own", {"width": 32}, {"table": VECTOR, "image": VECTOR, "series": VECTOR}),
)
TASK_SECTIONS: dict[str, dict[str, Any]] = {
    "contrastive": {"embedding": 8, "temperature": 0.1},
    "multi_task": {
        "heads": {
            "level": {"kind": "numbers", "columns": ["0"]},
            "other": {"kind": "numbers", "columns": ["1"], "weight": 0.5},
        }
    },
    "semi_supervised": {"unlabeled_fraction": 0.3},
}
VIEWS: dict[str, dict[str, Any]] = {  # of inputs that can be seen in two ways
    "image": {"noise": 0.1},
    "series": {"series": {"noise": 0.2}},
    "text": {"text": {"drop": 0.1}},
}
SLOW = {"external-resnet18"}
SECTIONS |= {
    f"external-{label}": {"family": "external", "name": name, "args": args} for label, name, args, _ in EXTERNAL
}
MADE_FOR = {**ACCEPTS, **{f"external-{label}": kinds for label, _, _, kinds in EXTERNAL}}
CAUSAL = {"gpt": {}, **{family: {"bidirectional": False} for family in ("rnn", "lstm", "gru")}}
FROM_INPUTS = ("language_modeling", "masked_language_modeling", "masked_reconstruction", "contrastive")
SAMPLES, STEPS, SIDE, VOCABULARY, CLASSES = 80, 12, 8, 12, 3
SAMPLE_OF = {"image": (SIDE, SIDE, 1), "table": (6,), "series": (2, STEPS), "text": (STEPS,)}


class Own(nn.Module):
    """A class of one's own, as anyone writes it."""

    def __init__(self, inputs: Inputs, num_classes: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(math.prod(inputs.shape), width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.layers(x)
        return outputs


def inputs_of(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (SAMPLES, *SAMPLE_OF[kind])
    if kind == "image":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    if kind == "text":
        return torch.randint(1, VOCABULARY, shape, generator=generator, dtype=torch.int32)
    return torch.randn(shape, generator=generator)


def structured(kind: str) -> Tensor:
    """Inputs whose parts follow from each other: what is hidden of them can be learned."""
    generator = torch.Generator().manual_seed(2)
    place = torch.rand(SAMPLES, 1, generator=generator) * VOCABULARY
    if kind == "text":
        return (1 + (place.long() + torch.arange(STEPS)) % (VOCABULARY - 1)).int()
    if kind == "series":
        return torch.stack([torch.sin(place + torch.arange(STEPS) / 2), torch.cos(place + torch.arange(STEPS) / 2)], 1)
    if kind == "table":
        return place * torch.linspace(-1, 1, *SAMPLE_OF["table"]) + 0.1 * torch.randn(SAMPLES, 6, generator=generator)
    across, down = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    waves = torch.sin(place.view(-1, 1, 1) + across / 2 + down / 3)
    return (127.5 + 127.5 * waves).to(torch.uint8).unsqueeze(-1)


def far_apart(kind: str) -> Tensor:
    """Inputs of three kinds, so that what is known of some holds for the others, whose labels are not seen."""
    generator = torch.Generator().manual_seed(3)
    shape = (SAMPLES, *SAMPLE_OF[kind])
    level = (torch.arange(SAMPLES) % CLASSES).view(-1, *(1 for _ in shape[1:]))
    if kind == "image":
        return (85 * level + torch.randint(0, 86, shape, generator=generator)).to(torch.uint8)
    if kind == "text":
        return (1 + 3 * level + torch.randint(0, 4, shape, generator=generator)).int()
    return level + 0.3 * torch.randn(shape, generator=generator)


def labels_of(target: str, inputs: Tensor, kind: str) -> Tensor:
    """What can be seen in the inputs: by their mean, or step by step."""
    level = inputs.float() / (255 if kind == "image" else VOCABULARY if kind == "text" else 1)
    mean = level.flatten(1).mean(1)
    if target == "class":
        return torch.bucketize(mean, torch.quantile(mean, torch.tensor([1 / 3, 2 / 3])))
    if target == "classes":
        return torch.stack([mean > mean.median(), mean < torch.quantile(mean, 0.3)], dim=1).float()
    if target == "numbers":
        return torch.stack([3 + mean, 10 * mean], dim=1)
    if target == "tags":
        steps = level[:, 0].contiguous() if kind == "series" else level
        return torch.bucketize(steps, torch.quantile(steps, torch.tensor([1 / 3, 2 / 3])))
    if target == "mask":
        return (level[..., 0] > 0.5).long()
    return torch.zeros(len(inputs), dtype=torch.int64)


def data_of(kind: str, task: str) -> DataModule:
    target = target_for(task)
    made = structured if task in FROM_INPUTS else far_apart if task == "semi_supervised" else inputs_of
    inputs = made(kind)
    labels = labels_of(target, inputs, kind)
    if task == "transcription" and kind in ("text", "series"):
        labels = without_repeats(labels)
    ids = torch.arange(SAMPLES)
    split = Arrays(inputs, labels, ids)
    names = {"class": CLASSES, "tags": CLASSES, "mask": 2, "classes": 2, "numbers": 2}.get(target, 1)
    more: dict[str, Any] = {"kind": kind, "target": target}
    if kind == "text":
        more["vocabulary"] = VOCABULARY
        more["tokenizer"] = TOKENIZER
    if target == "numbers":
        more |= {"target_mean": tuple(labels.mean(0).tolist()), "target_std": tuple(labels.std(0).tolist())}
    scale: tuple[Any, Any] = ((), ()) if kind == "text" else statistics(inputs)
    spec = DataSpec("made-up", in_shape_of(inputs), tuple(map(str, range(names))), *scale, "0" * 64, **more)
    return DataModule(spec, split, split, split)  # to be learned by heart, so there is nothing to keep apart


def without_repeats(tags: Tensor) -> Tensor:
    """What the tags of each row are, one after the other: at most as many as there are steps."""
    rows = [row.unique_consecutive() for row in tags]
    return torch.stack([torch.cat([row, row.new_full((tags.shape[1] - len(row),), -100)]) for row in rows])


def _tokenizer() -> str:
    from tokenizers import Tokenizer, models

    return str(Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, "w1")).to_str())


TOKENIZER = _tokenizer()


def cases() -> Iterator[tuple[str, str, str]]:
    """Family, kind of inputs, task."""
    for family, kinds in MADE_FOR.items():
        for kind, forms in kinds.items():
            for task in TASKS.names():
                if fits(family, kind, task, forms):
                    yield family, kind, task


def fits(family: str, kind: str, task: str, forms: tuple[str, ...]) -> bool:
    if (task == "contrastive" and kind not in VIEWS) or (task == "language_modeling" and family not in CAUSAL):
        return False  # nothing to see in two ways; a model that sees what it is to predict
    try:
        return form_of(task, kind) in forms
    except UsageError:
        return False


def target_for(task: str) -> str:
    targets = TASKS.resolve(task).targets
    return next(target for target in ("class", "classes", "numbers", "tags", "mask", "none") if target in targets)


def form_of(task: str, kind: str) -> str:
    section = replace(Config(), {"task": {"name": task, **TASK_SECTIONS.get(task, {})}}).task
    return TASKS.resolve(task).outputs(data_of(kind, task).spec, section).form


CASES = sorted(cases(), key=lambda case: (case[0], zlib.crc32(repr(case).encode())))
ALWAYS = set({(family, form_of(task, kind)): (family, kind, task) for family, kind, task in CASES}.values())
PARAMETERS = [
    pytest.param(
        *case, id="-".join(case), marks=[] if case in ALWAYS and case[0] not in SLOW else pytest.mark.exhaustive
    )
    for case in CASES
]
VERIFIED = set(
    {case[0]: case for case in CASES if case in ALWAYS}.values()
)  # in a process of its own: one of each family


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config_of(family: str, kind: str, task: str) -> Config:
    changes = {
        "model": {
            "family": family,
            **SECTIONS[family],
            **({"tied": False} if family == "gpt" and not task.endswith("language_modeling") else {}),
            **(CAUSAL.get(family, {}) if task == "language_modeling" else {}),
        },
        "task": {"name": task, **TASK_SECTIONS.get(task, {})},
        **({f"data.augment.{key}": value for key, value in VIEWS[kind].items()} if task == "contrastive" else {}),
        "data.batch_size": 20,
        "optimizer": {"lr": 0.003 if family == "vit" else 0.01, "weight_decay": 0.0},
        "scheduler": {"name": "constant"},
        "trainer.epochs": 30 if task in FROM_INPUTS else 12,
        "trainer.precision": "fp32",
        "trainer.num_threads": 1,
    }
    return replace(Config(), changes)


def loss_of(model: Model, data: DataModule, config: Config) -> float:
    with torch.no_grad():
        return evaluate_split(model.module.eval(), data, config, "test").loss


@pytest.mark.parametrize(("family", "kind", "task"), PARAMETERS)
def test_it_learns_is_saved_pruned_made_int8_and_verified(family: str, kind: str, task: str, tmp_path: Path) -> None:
    data, config = data_of(kind, task), config_of(family, kind, task)
    model = model_for(config, data.spec)
    before = loss_of(model, data, config)
    run = Run.create(tmp_path, "contract", config=config)
    run.begin()
    trained = fit(config, run, data, model).model
    assert loss_of(trained, data, config) < 0.9 * before, "it learns"
    example = data.spec.inputs.example(5)
    save_model(trained, tmp_path / "model")
    again = load_model(tmp_path / "model", trust=True)
    with torch.no_grad():  # recurrent layers take other kernels for gradients, whose last bits differ
        assert torch.equal(again.module(example), trained.module(example)), "a save loses no bit"
    small = prune_model(again, PruneConfig(ratio=0.25, round_to=4), iter(()))
    assert size(small) < size(again), "pruning makes it smaller"
    export_checked(small, data, config, tmp_path / "small.ts", verified=False)
    prepared = prepare_ptq(again, "x86")
    with calibrating(prepared.module), torch.no_grad():
        for batch in data.eval_loader("train", 40):
            prepared.module(batch.x)
    export_checked(prepared, data, config, tmp_path / "int8.ts", verified=(family, kind, task) in VERIFIED)


def size(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())


def export_checked(model: Model, data: DataModule, config: Config, path: Path, *, verified: bool) -> None:
    """Verified in a process of its own for one case of each family, and else held against the model here."""

    source = {"name": "contract", "id": "1", "sha256": "0"}
    if verified:
        _, verification = export_and_verify(model, data, path, config=config.export, source=source, task=config.task)
        assert verification.ok, verification.failures
        return
    export_torchscript(model, data, path, config=config.export, source=source, task=config.task)
    module = convert(model) if is_quantized(model.structure) else model.module.eval()
    predictor = load(path)
    some = data.test.inputs[:6]
    assert torch.allclose(
        predictor.forward(predictor.spec.normalize(some)), outputs_of(module, some, predictor.spec), atol=1e-4
    )
