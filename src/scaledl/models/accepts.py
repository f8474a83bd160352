"""Which inputs and outputs each of our own families is made for: what `build_NAME` checks, and a table can show."""

from __future__ import annotations

from scaledl.errors import UsageError
from scaledl.runtime.signature import Form, Inputs, Kind, Outputs

_VECTOR: tuple[Form, ...] = ("vector",)
_INPUT: tuple[Form, ...] = ("input",)
_OF_STEPS: dict[Kind, tuple[Form, ...]] = {"series": ("vector", "steps", "input"), "text": ("vector", "steps")}
ACCEPTS: dict[str, dict[Kind, tuple[Form, ...]]] = {
    "mlp": {"image": _VECTOR, "table": _VECTOR, "series": _VECTOR},
    "resnet": {"image": _VECTOR},
    "cnn": {"image": _VECTOR, "series": _VECTOR},
    "vit": {"image": ("vector", "pixels", "input")},
    "unet": {"image": ("pixels", "input")},
    "autoencoder": {"image": _INPUT, "table": _INPUT, "series": _INPUT},
    "vae": {"image": _INPUT, "table": _INPUT, "series": _INPUT},
    "rnn": _OF_STEPS,
    "lstm": _OF_STEPS,
    "gru": _OF_STEPS,
    "transformer": _OF_STEPS,
    "gpt": {"text": ("steps",)},
}
KIND_WORDS: dict[Kind, str] = {
    "image": "images, [channels, height, width]",
    "table": "rows of a table, [columns]",
    "series": "series, [channels, steps]",
    "text": "texts, [tokens]",
}


def check_accepts(family: str, inputs: Inputs, outputs: Outputs) -> None:
    """Raise UsageError, with what is allowed, when `family` has no model from such inputs to such outputs."""
    accepted = ACCEPTS[family]
    if inputs.kind not in accepted:
        got = "is a text" if inputs.kind == "text" else f"has the shape {list(inputs.shape)}"
        allowed = "; or ".join(KIND_WORDS[kind] for kind in accepted)
        raise UsageError(
            f"model.family: got {family}, and an input of the data {got}; allowed: {allowed}; {_fix(inputs, outputs)}"
        )
    if outputs.form not in accepted[inputs.kind]:
        raise UsageError(
            f"model.family: got {family}, and the task wants outputs of the form {outputs.form!r} for {inputs.kind} "
            f"inputs; allowed: {', '.join(accepted[inputs.kind])}; {_fix(inputs, outputs)}"
        )


def _fix(inputs: Inputs, outputs: Outputs) -> str:
    names = sorted(name for name, kinds in ACCEPTS.items() if outputs.form in kinds.get(inputs.kind, ()))
    return f"fix: model.family={' or '.join(names)}" if names else "no family of ours has them; bring one's own model"
