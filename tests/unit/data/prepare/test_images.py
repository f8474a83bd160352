"""Files of all kinds that stand in folders of images, and what becomes of their pixels."""

from __future__ import annotations

import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.unit.data.prepare.pictures import picture, save

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.images import BadImageError, Look, Target, decode, image_hashes, look, quiet_images, thumbnail

pytestmark = pytest.mark.unit

CONFIG = PrepareConfig()
RGB, GREY = Target(24, 24, 3), Target(24, 24, 1)


def mean_error(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.int64) - other).mean())


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.png", {}, 0),
        ("a.bmp", {}, 0),
        ("a.tif", {}, 0),
        ("a.ppm", {}, 0),
        ("a.webp", {"lossless": True}, 0),
        ("a.jpg", {"quality": 95, "subsampling": 0}, 3),
    ],
)
def test_formats(tmp_path: Path, name: str, options: dict[str, object], tolerance: float) -> None:
    pixels = picture(0)
    path = save(tmp_path / name, pixels, **options)
    assert look(path, CONFIG) == Look(24, 24, False)
    assert mean_error(decode(path, RGB, CONFIG)[0], pixels) <= tolerance


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA", "PA", "I;16", "I", "F", "LAB"])
def test_modes_become_the_colours_they_mean(tmp_path: Path, mode: str) -> None:
    grey = picture(1, channels=1).squeeze(-1)
    image = Image.fromarray(grey)
    if mode.startswith("I"):
        image = Image.fromarray(grey.astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    elif mode == "1":
        image = Image.fromarray(np.where(grey > 127, 255, 0).astype(np.uint8)).convert("1")
    else:
        image = image.convert("RGB").convert(mode) if mode in ("CMYK", "P", "PA", "LAB") else image.convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "F", "I", "LA", "PA", "LAB") else "a.png")
    if mode == "PA":
        image = image.convert("RGBA")
    image.save(path)
    expected = np.where(grey > 127, 255, 0) if mode == "1" else grey
    for target in (RGB, GREY):
        found, _ = decode(path, target, CONFIG)
        assert found.shape == (24, 24, target.channels)
        assert mean_error(found, expected[:, :, None]) <= (25 if mode in ("P", "PA") else 2)


def test_transparency_is_white(tmp_path: Path) -> None:
    rgba = np.zeros((24, 24, 4), np.uint8)
    rgba[:12, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found, _ = decode(tmp_path / "a.png", RGB, CONFIG)
    assert found[:12].max() == 0
    assert found[12:].min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_that_were_turned(tmp_path: Path, orientation: int) -> None:
    upright = picture(2, 16, 24)
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", np.ascontiguousarray(turned), exif=exif)
    assert look(path, CONFIG) == Look(16, 24, False)
    assert np.array_equal(decode(path, Target(16, 24, 3), CONFIG)[0], upright)


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(picture(i, channels=1).squeeze(-1)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert mean_error(decode(tmp_path / "a.gif", GREY, CONFIG)[0], picture(0, channels=1)) < 3


@pytest.mark.parametrize(
    ("fit", "corner", "centre"), [("crop", "edge", "mid"), ("pad", "black", "mid"), ("stretch", "edge", "mid")]
)
def test_other_shapes(tmp_path: Path, fit: str, corner: str, centre: str) -> None:
    del centre
    wide = np.full((20, 60, 3), 200, np.uint8)
    path = save(tmp_path / "a.png", wide)
    found, _ = decode(path, RGB, PrepareConfig.model_validate({"fit": fit}))
    assert found.shape == (24, 24, 3)
    assert found[12, 12].tolist() == [200] * 3
    assert found[0, 0].tolist() == ([0] * 3 if corner == "black" else [200] * 3)


@given(st.integers(2, 40), st.integers(2, 40), st.sampled_from(["crop", "pad", "stretch"]), st.sampled_from([1, 3]))
def test_every_shape_becomes_the_target(height: int, width: int, fit: str, channels: int) -> None:
    pixels = picture(height * 41 + width, height, width, channels)
    found, _ = decode(pixels, Target(9, 13, 3), PrepareConfig.model_validate({"fit": fit}))
    assert found.shape == (9, 13, 3)
    assert found.dtype == np.uint8


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its body has not."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def jpeg(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed, 64, 64)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "no image that is known"),
        (b"%PDF-1.4 nothing", "no image that is known"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image that is known"),
        (png_of(10_000, 10_000), "too many pixels: 10000x10000"),
        (png_of(300_000, 300_000), "decompression bomb"),
        (png_of(30_000, 1), "too small: 30000x1"),
        (png_of(3_000, 2), "too long: 3000x2"),
        (png_of(1, 1), "too small: 1x1"),
        (png_of(64, 64), "damaged: "),
        (jpeg()[:-200], "damaged: "),
        (jpeg()[:30], "no image that is known"),
    ],
)
def test_what_is_no_image_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with quiet_images(), pytest.raises(BadImageError, match=reason):
        decode(path, RGB, CONFIG)


@given(st.data())
def test_damaged_files_never_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(jpeg(data.draw(st.integers(0, 3))))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.jpg"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(BadImageError):
        assert decode(path, RGB, CONFIG)[0].shape == (24, 24, 3)


def test_of_a_huge_file_no_more_is_read_than_has_to_be(tmp_path: Path) -> None:
    path = save(tmp_path / "a.bmp", picture(0))
    os.truncate(path, 1 << 40)  # which no memory holds
    assert np.array_equal(decode(path, RGB, CONFIG)[0], picture(0))
    os.truncate(path, 0)
    os.truncate(path, 1 << 40)
    with pytest.raises(BadImageError, match="no image that is known"):
        decode(path, RGB, CONFIG)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="cannot be read: No such file"):
        decode(tmp_path / "gone.jpg", RGB, CONFIG)


# What looks the same


def as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels)


def hash_of(pixels: np.ndarray) -> np.ndarray:
    return image_hashes(thumbnail(as_image(pixels))[None])


def bits_between(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.unpackbits(hash_of(one) ^ hash_of(other)).sum())


@pytest.mark.parametrize("channels", [1, 3])
def test_hashes_of_the_same_picture_are_near_and_of_others_far(channels: int) -> None:
    images = [picture(seed, 64, 64, channels) for seed in range(12)]
    for i, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if channels == 1 else image).save(file, "JPEG", quality=70)
        again = np.asarray(Image.open(file)).reshape(image.shape)
        assert bits_between(image, again) <= 24
        assert np.abs(thumbnail(as_image(image)).astype(int) - thumbnail(as_image(again))).mean() < 3
        assert all(bits_between(image, other) > 60 for other in images[:i])


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 255))
def test_every_size_has_a_hash(height: int, width: int, value: int) -> None:
    flat = np.full((height, width, 1), value, np.uint8)
    assert thumbnail(as_image(flat)).tolist() == [value] * 256
    assert hash_of(flat).tolist() == [[0] * 60]
