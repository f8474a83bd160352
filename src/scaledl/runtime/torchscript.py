"""Use an exported TorchScript file: `load(path).predict(images)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaledl.errors import UsageError
from scaledl.runtime import jit
from scaledl.runtime.artifact import ArtifactSpec, InputSpec, read_spec, read_trusted
from scaledl.runtime.columns import encode_rows
from scaledl.runtime.outputs import OutputSpec
from scaledl.runtime.tokens import encode, parse_tokenizer, text_problem

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Predictor:
    """A loaded artifact.

    An int8 convolution keeps the kernel of the first batch size (and thread count) that it sees, and takes a slow path
    for every other: at batch size 1 that made small models 2.4 times slower. So each of `batch_sizes` gets a copy of
    its own, and all other sizes share one. Nothing is run at load: the first call at a size is what counts.
    """

    def __init__(self, data: bytes, spec: ArtifactSpec, batch_sizes: Sequence[int] = ()) -> None:
        self._spec = spec
        self._tokenizer: Tokenizer | None = None
        self._shared = _load_module(data, spec)
        sizes = batch_sizes if spec.engine else ()
        self._by_size = {size: _load_module(data, spec) for size in sizes}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes or numbers, in the order of the outputs."""
        return self._spec.labels

    @property
    def spec(self) -> InputSpec:
        """Input shape and preprocessing."""
        return self._spec.input

    @property
    def output(self) -> OutputSpec:
        """What the outputs mean."""
        return self._spec.output

    @property
    def manifest(self) -> dict[str, Any]:
        """All that the file says about itself: source run, versions, time of export."""
        return self._spec.manifest

    @property
    def engine(self) -> str | None:
        """Engine of the int8 kernels, None for a float32 file."""
        return self._spec.engine

    def predict(self, inputs: Any) -> Tensor:
        """Outputs, float32 [N, *output.shape]: logits of classes, numbers in the units of the data, … (`output.kind`).

        Args:
            inputs: of an image model uint8 [N, H, W, C], raw pixels, which are normalised as in training, or float
                [N, C, H, W], already normalised; of a text model texts, or token ids [N, T]; of another one float or
                whole numbers [N, *shape] as they stand in the data, which are normalised too; of a table also rows by
                the names of its columns, a list of mappings or one mapping of lists. A tensor, a list, or anything
                that `torch.as_tensor` takes.

        Raises:
            UsageError: another shape or dtype, no inputs, values that are not finite, or texts without the library that
                makes tokens of them.
        """
        if self.spec.is_text:
            return self.output.restore(self.forward(self._token_ids(inputs)))
        if _are_named(inputs):
            inputs = encode_rows(inputs, self.spec.columns, codes=bool(self.spec.categories))
        values = torch.as_tensor(inputs)
        checked = self._checked_images(values) if self.spec.is_image else self._checked_values(values)
        return self.output.restore(self.forward(checked))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of normalised inputs, both as in training, unchecked: float32 [N, *shape], of texts int64
        [N, T] -> [N, *output.shape]."""
        with torch.inference_mode():
            outputs: Tensor = self._by_size.get(len(x), self._shared)(x)
        return outputs

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """int64 [N, T]: what a text model gets of these texts. Raises UsageError as `predict`."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        for number, text in enumerate(texts):
            if problem := text_problem(text):
                raise UsageError(f"inputs: number {number} {problem}")
        self._tokenizer = self._tokenizer or parse_tokenizer(self.spec.tokenizer, "the file's tokenizer")
        ids = encode(self._tokenizer, texts, *self.spec.shape).long()
        if len(empty := torch.nonzero(~ids.any(1))):
            raise UsageError(f"inputs: number {int(empty[0])} is a text without a token; wanted one at least")
        return ids

    def _token_ids(self, inputs: Any) -> Tensor:
        if isinstance(inputs, str) or (isinstance(inputs, Sequence) and any(isinstance(one, str) for one in inputs)):
            values = self.tokens(inputs)
        else:
            values = torch.as_tensor(inputs)
        [length], vocabulary = self.spec.shape, self.spec.vocabulary
        whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
        if not whole or values.ndim != 2 or values.shape[1] != length:
            raise UsageError(
                f"inputs: got {values.dtype} {list(values.shape)}; wanted texts, or token ids as whole numbers "
                f"[N, {length}]"
            )
        _check_values("inputs", values)
        if int(values.min()) < 0 or int(values.max()) >= vocabulary:
            raise UsageError(
                f"inputs: token ids run from {int(values.min())} to {int(values.max())}; wanted 0 to {vocabulary - 1}"
            )
        return values.long()

    def _checked_images(self, images: Tensor) -> Tensor:
        channels, height, width = self.spec.shape
        is_pixels = images.dtype == torch.uint8
        wanted = (height, width, channels) if is_pixels else (channels, height, width)
        if not (is_pixels or images.is_floating_point()) or images.ndim != 4 or tuple(images.shape[1:]) != wanted:
            raise UsageError(
                f"images: got {images.dtype} {list(images.shape)}; wanted uint8 [N, {height}, {width}, {channels}] "
                f"(pixels) or float [N, {channels}, {height}, {width}] (normalised)"
            )
        _check_values("images", images)
        return self.spec.normalize(images) if is_pixels else images.to(torch.float32)

    def _checked_values(self, values: Tensor) -> Tensor:
        if values.is_complex() or values.dtype == torch.bool or tuple(values.shape[1:]) != self.spec.shape:
            wanted = ", ".join(map(str, self.spec.shape))
            raise UsageError(f"inputs: got {values.dtype} {list(values.shape)}; wanted numbers [N, {wanted}]")
        values = values.to(torch.float32)
        _check_values("inputs", values)
        _check_codes(values, self.spec.categories)
        return self.spec.normalize(values)


def load(path: str | Path, *, trust: bool = False, batch_sizes: Sequence[int] = (1,)) -> Predictor:
    """Load an artifact whose hash is known: recorded beside it or in its run's manifest.

    Args:
        path: the exported file.
        trust: also load a file of which no hash is known. It is code from elsewhere, and it runs.
        batch_sizes: the sizes that will be used most; int8 files are quickest at these.

    Raises:
        UsageError: missing, damaged, changed, of unknown origin, or made for an int8 engine that this machine lacks.
    """
    path = Path(path)
    data = read_trusted(path, trust=trust)
    return Predictor(data, read_spec(data, path), batch_sizes)


def _check_values(name: str, values: Tensor) -> None:
    if len(values) == 0:
        raise UsageError(f"{name}: got none; at least one is needed")
    if values.is_floating_point() and not bool(values.isfinite().all()):
        raise UsageError(f"{name}: some values are NaN or infinite")


def _are_named(inputs: Any) -> bool:
    return isinstance(inputs, Mapping) or (
        isinstance(inputs, Sequence) and any(isinstance(row, Mapping) for row in inputs)
    )


def _check_codes(values: Tensor, categories: tuple[int, ...]) -> None:
    """The last columns, where these are categories, hold whole numbers below their counts."""
    for place, count in zip(range(-len(categories), 0), categories, strict=True):
        codes = values[:, place]
        if bool(((codes < 0) | (codes >= count) | (codes != codes.round())).any()):
            raise UsageError(
                f"inputs: column {values.shape[1] + place} has other codes than whole numbers below {count}"
            )


def _load_module(data: bytes, spec: ArtifactSpec) -> torch.jit.ScriptModule:
    with jit.quantized_engine(spec.engine):
        try:
            return jit.load_bytes(data)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"the file's TorchScript cannot be loaded: {reason}") from error
