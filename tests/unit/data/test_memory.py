"""Memory of batches is used again, and never while anything still looks at it."""

import gc
import threading
from collections.abc import Iterator

import pytest
import torch

from scaledl.config.schema import AugmentConfig
from scaledl.data import Arrays, BatchLoader, DataSpec, memory
from scaledl.data.memory import KEPT, SMALLEST, empty_batch

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")
SHAPE = (2, SMALLEST // 2)


@pytest.fixture(autouse=True)
def _no_free_memory() -> Iterator[None]:
    gc.collect()
    memory._free.clear()
    yield
    memory._free.clear()


def address(shape: tuple[int, ...] = SHAPE) -> int:
    """Of a batch that is gone at once."""
    return empty_batch(shape, CPU).data_ptr()


def test_memory_of_a_batch_that_is_gone_serves_the_next() -> None:
    first = address()
    kept = empty_batch(SHAPE, CPU)
    assert (kept.data_ptr(), kept.shape, kept.dtype, kept.is_contiguous()) == (first, SHAPE, torch.float32, True)
    assert address() != first


@pytest.mark.parametrize(
    "view_fn",
    [
        lambda batch: batch,
        lambda batch: batch[1:, 3:4],
        lambda batch: batch.detach().t(),
        lambda batch: batch.numpy(),
        lambda batch: batch.untyped_storage(),
        lambda batch: memoryview(batch.numpy()),
        lambda batch: (batch.requires_grad_() ** 2).sum(),  # saved for the backward pass
    ],
)
def test_whoever_looks_at_a_batch_keeps_its_memory(view_fn: object) -> None:
    batch = empty_batch(SHAPE, CPU)
    used = batch.data_ptr()
    view = view_fn(batch)
    del batch
    others = [empty_batch(SHAPE, CPU) for _ in range(KEPT + 1)]
    assert used not in {other.data_ptr() for other in others}
    del view
    assert empty_batch(SHAPE, CPU).data_ptr() == used


def test_the_last_batch_of_an_epoch_may_be_smaller_but_not_far() -> None:
    first = address()
    assert address((2, SMALLEST // 2 - 1)) != first  # small ones are the C library's
    large = address((8, SMALLEST))
    assert address((5, SMALLEST)) == large
    assert address((2, SMALLEST)) != large


def test_few_free_blocks_are_kept() -> None:
    batches = [empty_batch(SHAPE, CPU) for _ in range(KEPT + 3)]
    del batches
    assert len(memory._free) == KEPT


def test_threads_never_get_the_same_memory() -> None:
    clashes = []

    def fill(value: float) -> None:
        for _ in range(50):
            batch = empty_batch(SHAPE, CPU).fill_(value)
            clashes.append(bool((batch != value).any()))

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clashes) == 200
    assert not any(clashes)


@pytest.mark.parametrize("augment", [AugmentConfig(crop=3, flip=True), AugmentConfig(rotation=20)])
def test_batches_that_are_kept_stay_as_they_were(augment: AugmentConfig) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 150, 150, 3), dtype=torch.uint8, generator=generator)
    arrays = Arrays(images, torch.zeros(20, dtype=torch.int64), torch.arange(20))
    spec = DataSpec("test", (3, 150, 150), ("a", "b"), (0.4, 0.5, 0.6), (0.3, 0.2, 0.1), "")
    loader = BatchLoader(arrays, spec, 6, augment=augment)
    loader.set_epoch(0)
    kept = list(loader)
    loader.set_epoch(0)
    for old, batch in zip(kept, loader, strict=True):
        assert torch.equal(old.x, batch.x)
    assert len({batch.x.data_ptr() for batch in kept}) == 4
