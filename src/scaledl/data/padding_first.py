"""Tokenizers that pad with another id than 0, or not at all, brought to pad with 0, as all of our texts do.

The padding token and the token that is 0 change places; where there is none, a new one does, behind the last. The
model is told which id that was (`Inputs.moved`), and sees the ids that it was trained with.
"""

from __future__ import annotations

import json
from typing import Any

from scaledl.errors import UsageError
from scaledl.runtime.tokens import PADDING_ID

NEW = "[PAD]"
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def padding_first(content: str, padding: int | None, where: str) -> tuple[str, int]:
    """The JSON of a tokenizer with its padding token as 0, and the id that its token 0 has now.

    Args:
        padding: its padding id; None for a tokenizer that has none.
        where: for messages.

    Raises:
        UsageError: a vocabulary that cannot be put in another order.
    """
    document: dict[str, Any] = json.loads(content)
    model, added = document["model"], document["added_tokens"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        vocabulary |= {token["content"]: token["id"] for token in added}
        moved = max(vocabulary.values()) + 1 if padding is None else padding
        if padding is None:
            vocabulary[NEW] = moved
            added.append({"id": moved, "content": NEW, **_FLAGS})
        model["vocab"] = {token: _swapped(number, moved) for token, number in vocabulary.items()}
    elif isinstance(vocabulary, list) and padding is not None and padding < len(vocabulary):
        moved = padding
        vocabulary[PADDING_ID], vocabulary[moved] = vocabulary[moved], vocabulary[PADDING_ID]
        if model.get("unk_id") is not None:
            model["unk_id"] = _swapped(model["unk_id"], moved)
    else:
        got = "has no padding token" if padding is None else f"pads with id {padding}"
        raise UsageError(
            f"{where} {got}, and its vocabulary ({model.get('type')}) cannot be put in another order; allowed: one "
            f"whose padding token is id {PADDING_ID}"
        )
    document["added_tokens"] = sorted(
        ({**token, "id": _swapped(token["id"], moved)} for token in added), key=lambda token: int(token["id"])
    )
    _swap_in_template_(document.get("post_processor"), moved)
    return json.dumps({**document, "padding": None, "truncation": None}, ensure_ascii=False), moved


def _swapped(number: int, moved: int) -> int:
    return {PADDING_ID: moved, moved: PADDING_ID}.get(number, number)


def _swap_in_template_(processor: Any, moved: int) -> None:
    """The ids that a post-processor puts around a text: of a Sequence, of Bert's and Roberta's kind, of templates."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors", ()):
        _swap_in_template_(inner, moved)
    for key in ("sep", "cls"):
        if isinstance(processor.get(key), list):
            token, number = processor[key]
            processor[key] = [token, _swapped(number, moved)]
    special = processor.get("special_tokens")
    for entry in special.values() if isinstance(special, dict) else ():
        entry["ids"] = [_swapped(number, moved) for number in entry["ids"]]
