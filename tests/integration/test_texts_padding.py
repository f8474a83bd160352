"""Pretrained text models that pad with 1 (RoBERTa's kind), or have no padding token (GPT-2's): made here, trained, and
held as files against the library's own model with its own tokenizer on padded batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning  # noqa: F401  it sets a variable when it is imported, which is no leak of a test
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from scaledl import api
from scaledl.config import Config, load_config, replace
from scaledl.errors import UsageError
from scaledl.models.structure import load_model
from scaledl.run import Run
from scaledl.runtime import load

pytestmark = [pytest.mark.integration, pytest.mark.beside]

WORDS = {"up": "fine good happy", "down": "sad bad awful"}
ROWS = [
    (f"{WORDS[label].split()[i % 3]} and {'very ' * (i % 5)}{WORDS[label].split()[i // 3 % 3]} {i}", label)
    for i in range(40)
    for label in WORDS
]
TEXTS = ["good", "awful and very very bad!", "happy and fine 7"]
LENGTH = 24
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def tokenizer_of(kind: str) -> Tokenizer:
    special = ROBERTA_TOKENS if kind == "roberta" else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # as GPT-2's is: what ends a text comes last
    first = special if kind == "roberta" else []
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text for text, _ in ROWS], trainer)
    tokenizer.add_special_tokens(special)
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def checkpoint(kind: str, folder: Path, head: str) -> Any:
    """A tiny model with random weights, saved as the library saves it, with its tokenizer."""
    import transformers

    tokenizer = tokenizer_of(kind)
    if kind == "roberta":
        config: Any = transformers.RobertaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=LENGTH + 2,
            initializer_range=0.5,
        )
    else:
        end = tokenizer.token_to_id("<|endoftext|>")
        config = transformers.GPT2Config(
            vocab_size=tokenizer.get_vocab_size(),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=LENGTH,
            bos_token_id=end,
            eos_token_id=end,
            initializer_range=0.5,
        )
    torch.manual_seed(0)
    name = {"roberta": "Roberta", "gpt2": "GPT2"}[kind]
    model = getattr(transformers, f"{name}{head}")(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def config_of(tmp_path: Path, folder: Path, task: str) -> Config:
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(f"{text},{label}" for text, label in ROWS) + "\n")
    settings = load_config(None, ["data.prepare.text=text", "data.prepare.near_duplicates=keep"])
    api.prepare_data(str(tmp_path / "t.csv"), tmp_path / "set", settings)
    keys = [
        *(f"data.source={tmp_path}/set", f"run.root={tmp_path}/runs", "run.name=padding", "data.batch_size=16"),
        *(f"data.text.tokenizer={folder}/tokenizer.json", f"data.text.max_length={LENGTH}", f"task.name={task}"),
        *("model.family=external", f"model.name=hf:{folder}", "model.pretrained=hf", "trainer.epochs=2"),
        *("optimizer.lr=0.002", "trainer.accelerator=cpu", "trainer.precision=fp32", "trainer.num_threads=1"),
    ]
    return load_config(None, keys)


def padded(kind: str, folder: Path, texts: list[str]) -> tuple[dict[str, Tensor], list[int]]:
    """What the library's model gets of texts by its own tokenizer, and their lengths."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = [tokenizer.encode(text).ids for text in texts]
    padding = 1 if kind == "roberta" else tokenizer.token_to_id("<|endoftext|>")
    lengths = [len(ids) for ids in known]
    longest = max(lengths)
    ids = torch.tensor([ids + [padding] * (longest - len(ids)) for ids in known])
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    return {"input_ids": ids, "attention_mask": mask}, lengths


def trained_into(original: Any, run: Run, folder: str) -> Any:
    """The library's own model with the weights of RUN/`folder`."""
    module: Any = load_model(run.path / folder).module
    original.load_state_dict({name.removeprefix("model."): value for name, value in module.state_dict().items()})
    return original


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_a_classifier_is_the_librarys_model_on_padded_batches(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / kind
    original = checkpoint(kind, folder, "ForSequenceClassification")
    before = {name: value.clone() for name, value in original.state_dict().items()}
    run = api.train(config_of(tmp_path, folder, "classification"))
    begun = trained_into(original, run, "start").state_dict()
    body = [name for name in before if not name.startswith(("score", "classifier"))]
    assert all(torch.equal(before[name], begun[name]) for name in body)
    trained_into(original, run, "model")
    artifact, verification = api.export(run)
    assert verification.ok, verification.failures
    predictor = load(artifact.path)
    original.config.pad_token_id = 1 if kind == "roberta" else original.config.eos_token_id
    theirs, _ = padded(kind, folder, TEXTS)
    with torch.no_grad():
        assert torch.allclose(predictor.predict(TEXTS), original(**theirs).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "head", "task"),
    [("roberta", "ForMaskedLM", "masked_language_modeling"), ("gpt2", "LMHeadModel", "language_modeling")],
)
def test_logits_of_tokens_are_the_librarys_in_the_order_of_our_ids(
    kind: str, head: str, task: str, tmp_path: Path
) -> None:
    folder = tmp_path / kind
    original = checkpoint(kind, folder, head)
    run = api.train(config_of(tmp_path, folder, task))
    trained_into(original, run, "model")
    artifact, verification = api.export(run)
    assert verification.ok, verification.failures
    predictor = load(artifact.path)
    theirs, lengths = padded(kind, folder, TEXTS)
    with torch.no_grad():
        wanted = original(**theirs).logits
    got = predictor.forward(predictor.tokens(TEXTS))
    vocabulary = wanted.shape[-1]
    moved = 1 if kind == "roberta" else vocabulary
    for row, length in enumerate(lengths):
        ours = got[row, :, :length].T
        assert torch.allclose(ours[:, moved], wanted[row, :length, 0], atol=1e-4)
        same = [number for number in range(1, vocabulary) if number != moved]
        assert torch.allclose(ours[:, same], wanted[row, :length, same], atol=1e-4)
        assert torch.equal(ours[:, 0] < -1000, torch.full((length,), kind == "gpt2"))


def test_another_tokenizer_than_the_models_own_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "roberta"
    checkpoint("roberta", folder, "ForSequenceClassification")
    other = replace(config_of(tmp_path, folder, "classification"), {"data.text.tokenizer": "char"})
    with pytest.raises(UsageError, match=r"pads with token 1, .* with 0; allowed: its own tokenizer, data\.text\.tok"):
        api.train(other)
