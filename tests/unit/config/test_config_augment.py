"""Values that the augmentation's keys cannot have."""

from pathlib import Path

import pytest

from scaledl.config import ConfigError, config_keys, load_config
from scaledl.config.schema import AugmentConfig, SeriesAugmentConfig, TextAugmentConfig

pytestmark = pytest.mark.unit

SHARE = "a number from 0 to 1"
AMOUNT = "a number from 0 to 10"
ALPHA = "a number from 0 to 100"
BAD_VALUES = [
    ("crop", "-1", "", "got -1; allowed: a whole number from 0 to 64"),
    ("flip", "1", "", "got 1; allowed: true or false"),
    ("resized_crop", "[0, 1]", ".0", "got 0; allowed: a number from 0.01 to 1"),
    ("resized_crop", "[0.5, 0.2]", ".0", "got 0.5; allowed: at most data.augment.resized_crop.1, which is 0.2"),
    ("policy", "randaugmnet", "", "got 'randaugmnet'; allowed: one of none, randaugment, trivialaugment; did you mean"),
    ("policy_ops", "0", "", "got 0; allowed: a whole number from 1 to 8"),
    ("policy_magnitude", "31", "", "got 31; allowed: a whole number from 0 to 30"),
    ("rotation", "181", "", "got 181; allowed: a number from 0 to 180"),
    ("rotation", ".nan", "", "got nan; allowed: a number from 0 to 180; it must be finite"),
    ("rotation", "[10, 20]", "", "got [10, 20]; allowed: a number from 0 to 180"),
    ("translation", "2", "", f"got 2; allowed: {SHARE}"),
    ("scale", "1.2", "", "got 1.2; allowed: a list of 2: a number from 0.1 to 10, a number from 0.1 to 10"),
    ("scale", "[0.8, 0]", ".1", "got 0; allowed: a number from 0.1 to 10"),
    ("scale", "[1.2, 0.8]", ".0", "got 1.2; allowed: at most data.augment.scale.1, which is 0.8"),
    ("shear", "90", "", "got 90; allowed: a number from 0 to 80"),
    ("brightness", "-0.1", "", f"got -0.1; allowed: {AMOUNT}"),
    ("contrast", "much", "", f"got the text 'much'; allowed: {AMOUNT}"),
    ("saturation", "true", "", f"got true; allowed: {AMOUNT}"),
    ("blur", "[0.1]", "", "got [0.1]; allowed: a list of 2: a number from 0 to 20, a number from 0 to 20"),
    ("blur", "[2, 1]", ".0", "got 2; allowed: at most data.augment.blur.1, which is 1"),
    ("noise", "25", "", f"got 25; allowed: {SHARE}"),
    ("cutout", "8", "", f"got 8; allowed: {SHARE}"),
    ("mixup", "-1", "", f"got -1; allowed: {ALPHA}"),
    ("cutmix", ".inf", "", f"got inf; allowed: {ALPHA}; it must be finite"),
    ("series.crop", "1.5", "", f"got 1.5; allowed: {SHARE}"),
    ("series.warp", "1", "", "got 1; allowed: a number of at least 0 and less than 1"),
    ("series.repeat", "-1", "", f"got -1; allowed: {SHARE}"),
    ("series.noise", "11", "", f"got 11; allowed: {AMOUNT}"),
    ("series.mask", "half", "", f"got the text 'half'; allowed: {SHARE}"),
    ("text.drop", "1", "", "got 1; allowed: a number of at least 0 and less than 1"),
    ("text.swap", "2", "", f"got 2; allowed: {SHARE}"),
    ("text.mask", "-0.1", "", "got -0.1; allowed: a number of at least 0 and less than 1"),
    ("text.mask_span", "0", "", "got 0; allowed: a whole number from 1 to 1000"),
]


@pytest.mark.parametrize(("key", "value", "part", "words"), BAD_VALUES)
def test_bad_value_says_key_line_got_and_allowed(
    key: str, value: str, part: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section, _, name = key.rpartition(".")
    Path("x.yaml").write_text(
        f"data:\n  augment:\n    {f'{section}: {{{name}: {value}}}' if section else f'{key}: {value}'}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config("x.yaml")
    [problem] = map(str, caught.value.problems)
    assert problem.startswith(f"data.augment.{key}{part} (x.yaml:3): {words}")


def test_every_key_has_a_bad_value_here_and_all_are_off_by_default() -> None:
    keys = set(AugmentConfig.model_fields) - {"series", "text"}
    keys |= {f"series.{name}" for name in SeriesAugmentConfig.model_fields}
    keys |= {f"text.{name}" for name in TextAugmentConfig.model_fields}
    assert {key for key, *_ in BAD_VALUES} == keys
    prefix = "data.augment."
    assert {info.key.removeprefix(prefix) for info in config_keys() if info.key.startswith(prefix)} == keys
    assert set(SeriesAugmentConfig().model_dump().values()) == {0}
    assert set(TextAugmentConfig().model_dump(exclude={"mask_span"}).values()) == {0}
    off = AugmentConfig().model_dump(exclude={"policy_ops", "policy_magnitude", "series", "text"})
    others = {"scale": (1, 1), "policy": "none", "blur": (0, 0), "resized_crop": (1, 1), "flip": False}
    assert off == {**dict.fromkeys(off, 0), **others}


def test_a_range_may_be_a_single_point() -> None:
    augment = load_config(None, ["data.augment.scale=[1.2,1.2]", "data.augment.blur=[1,1]"]).data.augment
    assert (augment.scale, augment.blur) == ((1.2, 1.2), (1, 1))
