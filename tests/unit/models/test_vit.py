"""The vision transformer against torch's own encoder, and what its keys change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaledl.config.schema import ViTConfig
from scaledl.models.blocks import Block
from scaledl.models.dropout import DropPath
from scaledl.models.structure import new_model
from scaledl.models.vit import ViT
from scaledl.runtime.signature import Inputs, Outputs

pytestmark = pytest.mark.unit

IMAGES = Inputs("image", (3, 8, 12))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def make(outputs: Outputs = Outputs(5), **keys: Any) -> ViT:  # noqa: B008
    config = ViTConfig(**{"family": "vit", "width": 16, "layers": 2, "heads": 4, "patch_size": 4, **keys})
    module = new_model(config, IMAGES, outputs, seed=0).module
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.eval()


def torchs_encoder(ours: ViT) -> nn.TransformerEncoder:
    """With the same weights, one to one."""
    layer = nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", norm_first=True, batch_first=True)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(16), enable_nested_tensor=False).eval()
    with torch.no_grad():
        for block, reference in zip(ours.blocks, theirs.layers, strict=True):
            attention = block.attention
            inner = (attention.q, attention.k, attention.v)
            reference.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in inner]))
            reference.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in inner]))
            reference.self_attn.out_proj.load_state_dict(attention.out.state_dict())
            reference.linear1.load_state_dict(block.feed[0].state_dict())
            reference.linear2.load_state_dict(block.feed[2].state_dict())
            reference.norm1.load_state_dict(block.norm1.state_dict())
            reference.norm2.load_state_dict(block.norm2.state_dict())
        theirs.norm.load_state_dict(ours.norm.state_dict())
    return theirs


def patches(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, patches, C * 16], row by row."""
    return nn.functional.unfold(x, 4, stride=4).transpose(1, 2)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_equals_torchs_encoder_on_patches(pooling: Any) -> None:
    ours = make(pooling=pooling)
    x = IMAGES.example(3)
    tokens = patches(x) @ ours.embed.weight.flatten(1).T + ours.embed.bias + ours.positions
    if pooling == "cls":
        tokens = torch.cat([ours.cls.expand(3, 1, 16), tokens], 1)
    encoded = torchs_encoder(ours)(tokens)
    expected = ours.head(encoded[:, 0] if pooling == "cls" else encoded.mean(1))
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-4)


def test_maps_are_the_tokens_patches_in_their_place() -> None:
    ours = make(Outputs(2, "pixels"), positions="none")
    x = IMAGES.example(2)
    maps = ours(x)
    tokens = patches(x) @ ours.embed.weight.flatten(1).T + ours.embed.bias
    values = ours.head(torchs_encoder(ours)(tokens))
    expected = nn.functional.fold(values.transpose(1, 2), (8, 12), 4, stride=4)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    x = IMAGES.example(2)
    mixed = torch.cat([x[..., 4:], x[..., :4]], -1)
    blind = make(positions="none")
    torch.testing.assert_close(blind(mixed), blind(x))
    for kind in ("learned", "sinusoidal"):
        seeing = make(positions=kind)
        assert not torch.allclose(seeing(mixed), seeing(x), atol=1e-3)


def test_sinusoidal_positions_differ_and_are_not_learned() -> None:
    config = ViTConfig(family="vit", width=16, layers=1, heads=4, patch_size=4, positions="sinusoidal")
    positions = new_model(config, IMAGES, Outputs(5), seed=0).module.positions
    assert not positions.requires_grad
    table = positions[0]
    assert len({tuple(row) for row in table.tolist()}) == 6
    assert torch.equal(table[0, :8], table[2, :8])  # of one row
    assert torch.equal(table[0, 8:], table[3, 8:])  # of one column


def test_blocks_are_skipped_more_and_more_often() -> None:
    module = make(layers=3, drop_path=0.4)
    assert [layer.rate for layer in module.modules() if isinstance(layer, DropPath)] == [0.2, 0.2, 0.4, 0.4]


@pytest.mark.parametrize("width", [48, 768])
def test_initial_weights_fit_the_width_and_the_patches(width: int) -> None:
    config = ViTConfig(family="vit", width=width, layers=1, heads=3, patch_size=2)
    model = new_model(config, IMAGES, Outputs(5), seed=0).module
    assert isinstance(model, ViT)
    block, positions = model.blocks[0], model.positions
    assert isinstance(block, Block)
    assert positions is not None
    std = 0.88 * 0.02 * (768 / width) ** 0.5  # what is left of a spread that is cut at two of it
    drawn = [float(tensor.detach().std()) for tensor in (block.feed[0].weight, positions)]
    assert drawn == pytest.approx([std, std], rel=0.1)
    tokens = model.embed(torch.randn(64, *IMAGES.shape))
    assert float(tokens.detach().std()) == pytest.approx(0.88, rel=0.15)  # as large as the pixels
