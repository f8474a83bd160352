import pytest
import torch

from scaledl.optim.penalties import penalty
from scaledl.optim.sam import ascend_, go_back_

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("l1", "l2"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_the_gradient_of_a_penalty_is_its_formula(l1, l2):
    torch.manual_seed(0)
    weights = [torch.randn(3, 4, requires_grad=True), torch.randn(2, 2, 3, requires_grad=True)]
    value = penalty(weights, l1, l2)
    value.backward()
    flat = torch.cat([weight.detach().flatten() for weight in weights])
    assert value.item() == pytest.approx(float(l1 * flat.abs().sum() + 0.5 * l2 * (flat**2).sum()))
    for weight in weights:
        torch.testing.assert_close(weight.grad, l1 * weight.detach().sign() + l2 * weight.detach())


def test_the_gradient_of_a_weight_of_zero_is_finite():
    weight = torch.zeros(3, requires_grad=True)
    penalty([weight], 0.1, 0.1).backward()
    assert torch.equal(weight.grad, torch.zeros(3))


def test_sam_goes_the_distance_along_the_gradient_and_exactly_back():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(5))]
    still = torch.nn.Parameter(torch.ones(2))
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.detach().clone() for parameter in parameters]
    kept = ascend_([*parameters, still], 0.05)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(parameters, before, strict=True)])
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    torch.testing.assert_close(moved, 0.05 * gradient / gradient.norm(), atol=1e-6, rtol=1e-4)
    assert torch.equal(still.detach(), torch.ones(2))
    go_back_(kept)
    assert all(torch.equal(p.detach(), b) for p, b in zip(parameters, before, strict=True))


def test_sam_stays_where_there_is_no_gradient():
    parameter = torch.nn.Parameter(torch.ones(2))
    assert ascend_([parameter], 0.1) == []
    parameter.grad = torch.zeros(2)
    ascend_([parameter], 0.1)
    assert torch.equal(parameter.detach(), torch.ones(2))
