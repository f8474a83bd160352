"""JPEG decoders in turns, on all cores: to RGB pixels, and to a square of 64 or 224 as `scaledl data prepare` makes it.

    python benchmarks/decode.py --files 400

Prints one line for each decoder and size, its rate and the ratio to Pillow's. Those that are not installed are left
out: Pillow, Pillow with draft (decoding at a half, a quarter or an eighth of the size, as preparation does),
torchvision, simplejpeg, PyTurboJPEG. All read the same bytes from memory; files are those of benchmarks/prepare.py.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from prepare import clouds

SIZES = ((300, 400), (375, 500))
TARGETS = (0, 64, 224)
Decoder = Callable[[bytes, int], Any]


def fitted(image: Image.Image, side: int) -> Any:
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR) if side else image)


def pillow(content: bytes, side: int) -> Any:
    return fitted(Image.open(io.BytesIO(content)).convert("RGB"), side)


def pillow_draft(content: bytes, side: int) -> Any:
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (side or image.width, side or image.height))
    return fitted(image.convert("RGB"), side)


def torchvision() -> Decoder:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    torch.set_num_threads(1)

    def decode(content: bytes, side: int) -> Any:
        pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
        return fitted(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), side) if side else pixels

    return decode


def simplejpeg() -> Decoder:
    import simplejpeg

    def decode(content: bytes, side: int) -> Any:
        least = {"min_height": side, "min_width": side} if side else {}
        pixels = simplejpeg.decode_jpeg(content, "RGB", **least)
        return fitted(Image.fromarray(pixels), side) if side else pixels

    return decode


def turbojpeg() -> Decoder:
    from turbojpeg import TJPF_RGB, TurboJPEG

    codec = TurboJPEG()

    def decode(content: bytes, side: int) -> Any:
        pixels = codec.decode(content, pixel_format=TJPF_RGB)
        return fitted(Image.fromarray(pixels), side) if side else pixels

    return decode


def decoders() -> dict[str, Decoder]:
    found: dict[str, Decoder] = {"Pillow": pillow, "Pillow, draft": pillow_draft}
    for name, make in (("torchvision", torchvision), ("simplejpeg", simplejpeg), ("PyTurboJPEG", turbojpeg)):
        try:
            found[name] = make()
        except (ImportError, RuntimeError, OSError) as error:
            print(f"{name} is left out: {error}")
    return found


def files(count: int, height: int, width: int) -> list[bytes]:
    sheet, found = clouds(0), []
    for i in range(count):
        y, x = np.random.default_rng(i).integers(0, [800 - height, 800 - width])
        file = io.BytesIO()
        Image.fromarray(sheet[y : y + height, x : x + width]).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def rate(decode: Decoder, contents: Sequence[bytes], side: int, pool: ThreadPoolExecutor) -> float:
    began = time.perf_counter()
    list(pool.map(lambda content: decode(content, side), contents))
    return len(contents) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    found = decoders()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for height, width in SIZES:
            contents = files(args.files, height, width)
            for side in TARGETS:
                rounds = [{n: rate(d, contents, side, pool) for n, d in found.items()} for _ in range(args.rounds)]
                for name in found:
                    ratio = statistics.median(one[name] / one["Pillow"] for one in rounds)
                    middle = statistics.median(one[name] for one in rounds)
                    print(f"{height}x{width} to {side or 'RGB':>4}: {name:14} {middle:7,.0f} a second, {ratio:.2f}")


if __name__ == "__main__":
    main()
