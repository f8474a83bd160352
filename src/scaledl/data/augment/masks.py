"""Masks that go where their images go: the same draws, the nearest pixel, and no class where new pixels come in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scaledl.config.schema import AugmentConfig
from scaledl.data.arrays import IGNORED
from scaledl.data.augment.affine import Affine, draw_affine, resample, source_matrix
from scaledl.data.augment.crop_flip import draw
from scaledl.data.augment.resized_crop import draw_resized_crop

Move = Callable[[Tensor, Tensor, int], Tensor]  # (codes int64 [B, H, W], of which 0 is no class, ids, epoch) -> codes


def build_masks_fn(masks: Tensor, augment: AugmentConfig, seed: int) -> Move:
    """What a batch takes from masks int16 or int64 [N, H, W], by rows, ids and epoch: int64 [B, H, W]."""
    moves = _moves(augment, seed, *masks.shape[1:])

    def moved(rows: Tensor, ids: Tensor, epoch: int) -> Tensor:
        codes = masks.index_select(0, rows).long() - IGNORED
        for move in moves:
            codes = move(codes, ids, epoch)
        return codes + IGNORED

    return moved


def _moves(augment: AugmentConfig, seed: int, height: int, width: int) -> list[Move]:
    """Those that are on, in the order in which images are changed."""
    moves: list[Move] = []
    if augment.crop or augment.flip:
        moves.append(lambda codes, ids, epoch: _crop_flip(codes, ids, augment, seed, epoch))
    if augment.resized_crop != (1, 1):
        moves.append(lambda codes, ids, epoch: _resized_crop(codes, ids, augment.resized_crop, seed, epoch))
    if augment.rotation or augment.translation or augment.shear or augment.scale != (1, 1):
        moves.append(lambda codes, ids, epoch: _affine(codes, draw_affine(ids, augment, seed, epoch, height, width)))
    return moves


def _crop_flip(codes: Tensor, ids: Tensor, augment: AugmentConfig, seed: int, epoch: int) -> Tensor:
    draws = draw(ids, augment, seed, epoch)
    mirrored = torch.where(draws.mirror.view(-1, 1, 1) == 1, codes.flip(2), codes)
    padded = torch.nn.functional.pad(mirrored, [augment.crop] * 4)
    down, across = (_span(start, size) for start, size in ((draws.y, codes.shape[1]), (draws.x, codes.shape[2])))
    return _taken(padded, down, across)


def _resized_crop(codes: Tensor, ids: Tensor, area: tuple[float, float], seed: int, epoch: int) -> Tensor:
    top, left, high, wide = draw_resized_crop(ids, area, seed, epoch, *codes.shape[1:])
    return _taken(codes, _stretched(top, high, codes.shape[1]), _stretched(left, wide, codes.shape[2]))


def _affine(codes: Tensor, affine: Affine) -> Tensor:
    moved = resample(codes.unsqueeze(1).float(), source_matrix(affine), "nearest")
    return moved.squeeze(1).long()


def _span(start: Tensor, size: int) -> Tensor:
    """start, start + 1, … of each sample: int64 [B, size]."""
    return start.unsqueeze(1) + torch.arange(size, device=start.device)


def _stretched(start: Tensor, length: Tensor, count: int) -> Tensor:
    """Of `count` places over a part of each sample the pixel in which the middle of each lies: int64 [B, count]."""
    middles = torch.arange(count, dtype=torch.float64, device=start.device) + 0.5
    return start.unsqueeze(1) + (middles * (length / count).unsqueeze(1)).long()


def _taken(codes: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Rows int64 [B, H] and columns int64 [B, W] of codes [B, h, w] -> [B, H, W]."""
    rows = codes.gather(1, down.unsqueeze(2).expand(-1, -1, codes.shape[2]))
    return rows.gather(2, across.unsqueeze(1).expand(-1, down.shape[1], -1))
