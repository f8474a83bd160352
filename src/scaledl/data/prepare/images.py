"""One image file to uint8 pixels, whatever it is that a folder holds under this name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scaledl.config.schema import PrepareConfig
from scaledl.data.prepare.items import Stored
from scaledl.errors import require_extra

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_DEPTH_16 = ("I;16", "I;16B", "I;16L", "I")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
_GRID = 16
_BLOCK = 1 << 26
_AT_ONCE = 1 << 26  # bytes of a file; of a larger one only what turns out to be needed is read
_RISE = 2  # of 255


class BadImageError(Exception):
    """Why an image is not taken."""


@dataclass(frozen=True)
class Look:
    """What a file's header says. `grey`: without colour. Height and width are those after its EXIF rotation."""

    height: int
    width: int
    grey: bool


@dataclass(frozen=True)
class Target:
    """What every image becomes: height, width, channels (1 or 3)."""

    height: int
    width: int
    channels: int


def look(content: Path | Stored | Pixels, config: PrepareConfig) -> Look:
    """Read the header alone. Raises BadImageError."""
    if isinstance(content, np.ndarray):
        _check_size(content.shape[1], content.shape[0], config)
        return Look(content.shape[0], content.shape[1], content.shape[2] == 1)
    with opened(content, config, whole=False) as image:
        return _look(image)


def decode(content: Path | Stored | Pixels, target: Target, config: PrepareConfig) -> tuple[Pixels, Look]:
    """uint8 [height, width, channels], and what the image was before. As `decode_image`."""
    image, found = decode_image(content, target, config)
    return pixels_of(image), found


def pixels_of(image: Image) -> Pixels:
    """uint8 [height, width, channels]."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, len(image.getbands()))


def decode_image(content: Path | Stored | Pixels, target: Target, config: PrepareConfig) -> tuple[Image, Look]:
    """The image in the target's size and channels, and what it was before.

    Transparency becomes white; of an animation the first frame is taken. Raises BadImageError for what cannot be read
    to its end.
    """
    require_extra("PIL", "vision")
    from PIL import Image

    if isinstance(content, np.ndarray):
        seen = look(content, config)
        image = Image.fromarray(content.squeeze(-1) if content.shape[2] == 1 else content)
        return _shaped(image, target, config), seen
    with opened(content, config) as file:
        found = _look(file)
        try:
            # JPEG files can be read at a half, a quarter or an eighth of their size.
            file.draft("RGB" if target.channels == 3 else "L", (target.width, target.height))
            _read_at_once(file)
            file.load()
            image = _upright(file)
        except MemoryError as error:
            raise BadImageError("too large for the memory") from error
        except Exception as error:  # Pillow's plugins raise whatever their parsing came to
            raise BadImageError(f"damaged: {_words(error)}") from error
        return _shaped(image, target, config), found


def _read_at_once(image: Image) -> None:
    """A file that is in memory need not be given to its decoder in pieces."""
    if hasattr(image, "decodermaxblock"):
        image.decodermaxblock = _BLOCK


def _look(image: Image) -> Look:
    width, height = image.size
    if _orientation(image) in _TURNED:
        width, height = height, width
    return Look(height, width, image.mode in ("1", "L", "LA", *_DEPTH_16))


def _orientation(image: Image) -> int:
    """As EXIF says it; 1, upright, where it says nothing that can be read."""
    if "exif" not in image.info and image.format != "TIFF":
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser raises whatever a damaged block made it
        return 1


def _upright(image: Image) -> Image:
    from PIL import ImageOps

    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _shaped(image: Image, target: Target, config: PrepareConfig) -> Image:
    plain = _plain(image, "L" if target.channels == 1 else "RGB")
    return plain if plain.size == (target.width, target.height) else _resized(plain, target, config.fit)


def _plain(image: Image, mode: str) -> Image:
    from PIL import Image

    if image.mode in _DEPTH_16:
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "LAB":  # from which there is no way to grey
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image, target: Target, fit: str) -> Image:
    from PIL import Image, ImageOps

    size, method = (target.width, target.height), Image.Resampling.BILINEAR
    if fit == "stretch":
        return image.resize(size, method)
    if fit == "pad":
        return ImageOps.pad(image, size, method)
    return ImageOps.fit(image, size, method)


@contextmanager
def opened(content: Path | Stored, config: PrepareConfig, *, whole: bool = True) -> Iterator[Image]:
    """A file as Pillow sees it after its header, in one of the known formats and of a bearable size.

    `whole`: read it at once, if it is not too large, which is faster where all of it is needed.
    """
    require_extra("PIL", "vision")
    from PIL import Image

    try:
        file = _file(content, whole=whole)
        empty = not file.read(1)
        file.seek(0)
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from error
    with file:
        if empty:
            raise BadImageError("empty file")
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise BadImageError(f"decompression bomb: {_words(error)}") from error
        except Exception as error:
            raise BadImageError("no image that is known: " + "/".join(FORMATS)) from error
        with image:
            _check_size(*image.size, config)
            yield image


@contextmanager
def quiet_images() -> Iterator[None]:
    """Without Pillow's warnings, of damaged metadata and of sizes that are checked here.

    Around all threads that open images, because filters of warnings belong to the process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _file(content: Path | Stored, *, whole: bool) -> IO[bytes]:
    if not isinstance(content, Path):
        return BytesIO(content.read())
    if not whole or content.stat().st_size > _AT_ONCE:
        return content.open("rb")
    with content.open("rb", buffering=0) as file:
        return BytesIO(file.read())


def _check_size(width: int, height: int, config: PrepareConfig) -> None:
    if width * height > config.max_pixels:
        raise BadImageError(f"too many pixels: {width}x{height}, data.prepare.max_pixels={config.max_pixels}")
    if min(width, height) < config.min_side:
        raise BadImageError(f"too small: {width}x{height}, data.prepare.min_side={config.min_side}")
    if max(width, height) > config.max_ratio * min(width, height):
        raise BadImageError(f"too long: {width}x{height}, data.prepare.max_ratio={config.max_ratio:g}")


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def thumbnail(image: Image) -> NDArray[np.uint8]:
    """uint8 [256]: mean brightness in a grid of 16x16."""
    from PIL import Image

    grey = image.convert("L")
    width, height = grey.size
    if width % _GRID or height % _GRID:
        small = grey.resize((_GRID, _GRID), Image.Resampling.BOX)
    else:  # the same means, in half the time
        small = grey.reduce((width // _GRID, height // _GRID))
    return np.frombuffer(small.tobytes(), np.uint8)


def image_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [N, 60] from [N, 256]: hashes of 480 bits, of which images that look alike differ in few.

    After dHash (Krawetz 2013): whether brightness rises to the right, and downwards; less than what compression changes
    is no rise.
    """
    grid = thumbnails.reshape(-1, _GRID, _GRID)
    least = np.minimum(grid, 255 - _RISE) + np.uint8(_RISE)  # what is not above it has not risen
    right, down = grid[:, :, 1:] > least[:, :, :-1], grid[:, 1:] > least[:, :-1]
    return np.packbits(np.concatenate([right.reshape(len(grid), -1), down.reshape(len(grid), -1)], axis=1), axis=1)
