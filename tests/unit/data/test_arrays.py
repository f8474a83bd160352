import json

import numpy as np
import pytest
import torch

from scaledl.data import Arrays, DataSpec, normalize
from scaledl.data.arrays import channel_statistics, fingerprint
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

SPEC = DataSpec("digits", (3, 4, 5), ("a", "b"), (0.1, 0.25, 1 / 3), (0.5, 0.3, 1 / 7), "ab" * 32)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def arrays(size: int = 6) -> Arrays:
    return Arrays(images(size, 2, 2, 1), torch.arange(size) % 2, torch.arange(size) + 10)


def test_take_copies_rows_in_the_order_asked_for() -> None:
    whole = arrays()
    part = whole.take(torch.tensor([4, 1]))
    assert len(part) == 2
    assert part.ids.tolist() == [14, 11]
    assert torch.equal(part.inputs, torch.stack([whole.inputs[4], whole.inputs[1]]))
    part.inputs.zero_()
    assert whole.inputs.any()


def test_spec_survives_json_exactly() -> None:
    assert DataSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC
    assert SPEC.num_classes == 2


@pytest.mark.parametrize(
    "damage",
    [
        {"in_shape": [1, 2, 3, 4]},
        {"in_shape": []},
        {"mean": "a"},
        {"std": None},
        {"labels": 3},
        {"in_shape": ["x", 1, 1]},
    ],
)
def test_a_damaged_spec_is_refused(damage: dict) -> None:
    with pytest.raises(UsageError, match="data spec"):
        DataSpec.from_dict(SPEC.to_dict() | damage)


def test_a_spec_without_a_field_is_refused_by_its_name() -> None:
    values = SPEC.to_dict()
    del values["fingerprint"]
    with pytest.raises(UsageError, match="fingerprint"):
        DataSpec.from_dict(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_is_the_plain_formula_bit_for_bit(channels: int) -> None:
    spec = DataSpec("x", (channels, 4, 5), ("a",), SPEC.mean[:channels], SPEC.std[:channels], "")
    pixels = images(7, 4, 5, channels)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    result = normalize(pixels, spec)
    assert torch.equal(result, (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_channel_statistics_are_those_of_numpy() -> None:
    pixels = images(50, 6, 7, 3)
    pixels[..., 1] //= 3
    mean, std = channel_statistics(pixels)
    reference = pixels.double().numpy() / 255
    np.testing.assert_allclose(mean, reference.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, reference.std((0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    mean, std = channel_statistics(torch.full((3, 2, 2, 1), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == (1.0,)


def test_fingerprint_sees_every_byte_and_the_order() -> None:
    def changed(pixel: int = 0, label: int = 0, sample: int = 0) -> Arrays:
        split = arrays()
        split.inputs[0, 0, 0, 0] += pixel
        split.labels[0] += label
        split.ids[0] += sample
        return split

    names = ("a", "b")
    base = fingerprint({"train": arrays(), "val": arrays(3)}, names)
    others = [
        fingerprint({"train": changed(pixel=1), "val": arrays(3)}, names),
        fingerprint({"train": changed(label=1), "val": arrays(3)}, names),
        fingerprint({"train": changed(sample=1), "val": arrays(3)}, names),
        fingerprint({"val": arrays(3), "train": arrays()}, names),
        fingerprint({"train": arrays(3), "val": arrays()}, names),
        fingerprint({"train": arrays(), "val": arrays(3)}, ("b", "a")),
    ]
    assert fingerprint({"train": arrays(), "val": arrays(3)}, names) == base
    assert len({base, *others}) == 7
