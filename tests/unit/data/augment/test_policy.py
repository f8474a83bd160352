import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scaledl.data.augment.policy import GROUPS, KINDS, PolicyOperation, apply_kinds_

pytestmark = pytest.mark.unit


def random_images(channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (56, channels, 9, 12), generator=generator).float()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_each_sample_gets_its_own_kind_and_stays_in_its_row(channels: int) -> None:
    x, kind = random_images(channels), torch.arange(56) % 14
    magnitude = torch.where(kind == KINDS.index("posterize"), 4.0, 0.3).double()
    together = apply_kinds_(x.clone(), kind, magnitude)
    alone = [apply_kinds_(x[i : i + 1].clone(), kind[i : i + 1], magnitude[i : i + 1]) for i in range(56)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together[kind == 0], x[kind == 0])
    assert torch.equal(together, together.round())


def test_strength_zero_leaves_all_that_is_signed_as_it_is() -> None:
    x, kind = random_images(), torch.arange(56) % 10
    assert torch.equal(apply_kinds_(x.clone(), kind, torch.zeros(56, dtype=torch.float64)), x)


def test_randaugment_takes_as_many_turns_as_asked_for() -> None:
    x, ids = random_images(), torch.arange(56)
    policy = PolicyOperation("randaugment", 3, 15, 0, 9, 12)
    step = x.clone()
    for turn in range(3):
        apply_kinds_(step, *policy.draw(ids, 4, turn))
    assert torch.equal(policy(x, ids, 4), step)


def test_draws_and_operations_stay_on_the_device_of_the_ids() -> None:
    policy = PolicyOperation("trivialaugment", 2, 9, 0, 9, 12)
    policy_parts = policy._table, policy._signed
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert all(part.device.type == "cpu" for part in policy_parts)
        ids = torch.arange(8, device="cuda")
        kind, magnitude = policy.draw(ids, 0, 0)
        x = torch.zeros(8, 3, 9, 12, device="cuda")
        for group_fn in GROUPS:
            assert group_fn(x, kind, magnitude).device.type == "cuda"
