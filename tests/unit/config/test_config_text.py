"""Keys of data.text."""

from __future__ import annotations

import pytest

from scaledl.config import ConfigError, load_config, portable
from scaledl.config.schema import TextConfig

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", ["char", "byte", "word", "bpe", "minilm/tokenizer.json"])
def test_tokenizers_by_name_or_file(name: str) -> None:
    assert load_config(None, [f"data.text.tokenizer={name}"]).data.text.tokenizer == name


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "tokenizer=wrod",
            "got 'wrod'; allowed: one of char, byte, word, bpe, or a tokenizer file of Hugging Face (FILE.json); "
            "did you mean 'word'?",
        ),
        ("vocabulary=2", "got 2; allowed: a whole number from 3 to 1000000"),
        ("max_length=0", "got 0; allowed: a whole number from 1 to 65536"),
        ("stride=0", "got 0; allowed: a whole number from 1 to 65536 or auto"),
        ("lowercase=1", "got 1; allowed: true or false"),
        ("test_fraction=1", "got 1; allowed: a number greater than 0 and less than 1"),
    ],
)
def test_a_bad_value_says_what_is_allowed(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"data.text.{override}"])
    [problem] = map(str, caught.value.problems)
    assert problem.startswith(f"data.text.{override.partition('=')[0]} (command line): ")
    assert words in problem


def test_a_file_of_this_machine_leaves_its_name_alone() -> None:
    plain = portable(load_config(None, ["data.text.tokenizer=/home/me/tokenizer.json"]))
    assert plain["data"]["text"]["tokenizer"] == "tokenizer.json"
    assert portable(load_config(None, []))["data"]["text"] == TextConfig().model_dump(mode="json")
