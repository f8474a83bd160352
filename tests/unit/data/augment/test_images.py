"""Augmented images through the loader: whose pixels they are, and what the switches do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, Batch, BatchLoader, DataSpec
from scaledl.data.augment import CropFlip, build_pixels_fn
from scaledl.data.augment.draws import normal_quantiles
from scaledl.data.augment.images import Augmented

pytestmark = pytest.mark.unit

# Every operation by itself, and all together: one table for all that must hold for each of them.
OPERATIONS = {
    "rotation": {"rotation": 30},
    "translation": {"translation": 0.2},
    "scale": {"scale": [0.7, 1.3]},
    "shear": {"shear": 20},
    "brightness": {"brightness": 0.5},
    "contrast": {"contrast": 0.5},
    "saturation": {"saturation": 0.5},
    "jitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5},
    "blur": {"blur": [0.1, 2.0]},
    "noise": {"noise": 0.1},
    "cutout": {"cutout": 0.4},
    "randaugment": {"policy": "randaugment"},
    "trivialaugment": {"policy": "trivialaugment"},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "mix": {"mixup": 0.4, "cutmix": 1.0},
}
ALL = {"crop": 2, "flip": True, "policy": "randaugment"} | {
    key: value for name, section in OPERATIONS.items() if "augment" not in name for key, value in section.items()
}
CASES = {**OPERATIONS, "all": ALL}


def make_arrays(size: int, channels: int, height: int = 11, width: int = 14) -> Arrays:
    rng = np.random.default_rng(size)
    images = torch.from_numpy(rng.integers(0, 256, (size, height, width, channels), dtype=np.uint8))
    return Arrays(images, torch.arange(size) % 3, torch.arange(size) * 7 + 100)


def make_spec(channels: int) -> DataSpec:
    return DataSpec("test", (channels, 11, 14), ("a", "b", "c"), (0.4,) * channels, (0.3,) * channels, "")


def make_loader(
    section: dict, size: int = 23, batch_size: int = 5, channels: int = 3, **changes: object
) -> BatchLoader:
    options: dict = {"shuffle": True, "augment": AugmentConfig(**section), "seed": 3} | changes
    return BatchLoader(make_arrays(size, channels), make_spec(channels), batch_size, **options)


def by_id(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {int(i): (x, y) for b in batches for i, x, y in zip(b.ids, b.x, b.y, strict=False)}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(a, b) for i in other for a, b in zip(one[i], other[i], strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_sample_is_the_same_to_the_last_bit_in_any_batch_rank_and_worker(name: str, channels: int) -> None:
    section = CASES[name]
    whole = by_id(list(make_loader(section, batch_size=23, channels=channels)))
    assert len(whole) == 23
    for batch_size in (1, 7):
        assert same(whole, by_id(list(make_loader(section, batch_size=batch_size, channels=channels))))
    ranks = [make_loader(section, channels=channels, rank=rank, world_size=3) for rank in range(3)]
    parts = by_id([batch for rank in ranks for batch in rank])
    assert parts.keys() == whole.keys()
    assert same(whole, parts)


@pytest.mark.parametrize("name", ["all", "noise", "trivialaugment", "crop", "plain"])
def test_a_few_images_at_a_time_make_the_same_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (CASES | {"crop": {"crop": 2, "flip": True}, "plain": {}})[name]
    whole = next(iter(make_loader(section, batch_size=23)))
    monkeypatch.setattr("scaledl.data.augment.images.VALUES_AT_A_TIME", 5 * 11 * 14 * 3 + 1)
    monkeypatch.setattr("scaledl.data.arrays.VALUES_AT_A_TIME", 1)
    parts = next(iter(make_loader(section, batch_size=23)))
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


def test_a_sample_is_the_same_in_a_worker_process_and_after_a_resume() -> None:
    whole = by_id(list(make_loader(ALL)))
    assert same(whole, by_id(list(make_loader(ALL, num_workers=2))))
    first, second = make_loader(ALL), make_loader(ALL, batch_size=4)
    seen = [batch for _, batch in zip(range(2), first, strict=False)]
    second.load_state_dict(first.state_dict())
    rest = by_id([*seen, *second])
    assert rest.keys() == whole.keys()
    assert same(whole, rest)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), channels=st.sampled_from([1, 2, 3]))
def test_any_mixture_on_any_size_is_finite_and_the_same_alone(data: st.DataObject, channels: int) -> None:
    names = data.draw(st.sets(st.sampled_from(sorted(OPERATIONS)), max_size=4))
    augment = AugmentConfig(**{k: v for name in sorted(names) for k, v in OPERATIONS[name].items()})
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    arrays = make_arrays(6, channels, height, width)
    index, ids = torch.arange(6), arrays.ids
    fn = build_pixels_fn(arrays.inputs, augment, data.draw(st.integers(0, 2**31 - 1)))
    pixels = fn(index, ids, 4).reshape(6, height, width, channels).float()
    assert pixels.min() >= 0
    assert pixels.max() <= 255
    alone = [fn(index[i : i + 1], ids[i : i + 1], 4).reshape(1, height, width, channels).float() for i in range(6)]
    assert torch.equal(torch.cat(alone), pixels)


@pytest.mark.parametrize("name", CASES)
def test_pixels_change_with_epoch_seed_and_sample_and_stored_images_stay(name: str) -> None:
    arrays = make_arrays(1, 3)
    twins = Arrays(
        arrays.inputs.expand(40, -1, -1, -1).contiguous(), torch.zeros(40, dtype=torch.int64), torch.arange(40)
    )
    if "mix" in name:  # of twins nothing changes
        twins = make_arrays(40, 3)
    before = twins.inputs.clone()
    results = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        loader = BatchLoader(twins, make_spec(3), 40, augment=AugmentConfig(**CASES[name]), seed=seed)
        loader.set_epoch(epoch)
        results.append(next(iter(loader)).x)
    assert torch.equal(before, twins.inputs)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        changed = (results[one] != results[other]).flatten(1).any(1)
        assert changed.double().mean() > 0.5
    assert len({tuple(x.flatten().tolist()) for x in results[0]}) > 15


def test_without_an_extra_operation_nothing_is_between_the_images_and_the_batch() -> None:
    arrays = make_arrays(23, 3)
    assert isinstance(build_pixels_fn(arrays.inputs, AugmentConfig(crop=1), 0), CropFlip)
    plain = build_pixels_fn(arrays.inputs, AugmentConfig(), 0)
    assert plain(torch.tensor([4]), arrays.ids[4:5], 0).dtype == torch.uint8
    assert not isinstance(plain, Augmented)
    batch = next(iter(make_loader({"crop": 1, "flip": True})))
    assert batch.y.dtype == torch.int64


def test_saturation_of_grey_images_and_blur_of_one_pixel_are_nothing() -> None:
    for section, shape in (({"saturation": 1.0}, (5, 9, 9, 1)), ({"blur": [1.0, 2.0]}, (5, 1, 9, 3))):
        fn = build_pixels_fn(torch.zeros(shape, dtype=torch.uint8), AugmentConfig(**section), 0)
        assert not isinstance(fn, Augmented)


def test_new_pixels_are_black_also_after_normalisation() -> None:
    white = Arrays(
        torch.full((64, 11, 14, 1), 255, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64), torch.arange(64)
    )
    for section in ({"translation": 0.5}, {"cutout": 0.5}):
        x = next(iter(BatchLoader(white, make_spec(1), 64, augment=AugmentConfig(**section)))).x
        assert x.unique().tolist() == pytest.approx([(0 - 0.4) / 0.3, (1 - 0.4) / 0.3])


def test_cutout_is_one_square_of_the_side_asked_for() -> None:
    white = torch.full((50, 11, 14, 1), 255, dtype=torch.uint8)
    fn = build_pixels_fn(white, AugmentConfig(cutout=0.4), 0)
    dark = fn(torch.arange(50), torch.arange(50), 0)[..., 0] == 0
    assert (dark.sum((1, 2)) == 16).all()
    assert (dark.any(1).sum(1) == 4).all()
    assert (dark.any(2).sum(1) == 4).all()


@pytest.mark.parametrize("name", CASES)
def test_no_global_random_state_is_drawn_from(name: str) -> None:
    before = torch.get_rng_state()
    list(make_loader(CASES[name]))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", [name for name in CASES if "augment" not in name and name != "all"])
def test_every_tensor_is_on_the_device_of_the_images(name: str) -> None:
    """On a GPU that is only pretended: operations on tensors of two devices raise all the same."""
    normal_quantiles.cache_clear()
    try:
        with FakeTensorMode():
            size, device = 12, "cuda"
            images = torch.empty((size, 11, 14, 3), dtype=torch.uint8, device=device)
            labels = torch.empty(size, dtype=torch.int64, device=device)
            augment = AugmentConfig(crop=2, flip=True, **CASES[name])
            loader = BatchLoader(Arrays(images, labels, labels.clone()), make_spec(3), 5, augment=augment)
            batch = loader.batch(torch.arange(5), 0)
            assert {tensor.device.type for tensor in batch} == {"cuda"}
            assert batch.x.shape == (5, 3, 11, 14)
    finally:
        normal_quantiles.cache_clear()
