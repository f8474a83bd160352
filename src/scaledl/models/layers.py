"""The layers of any model in their order, from the names of its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def layers_of(dimensions: Mapping[str, int], head: frozenset[str] = frozenset()) -> list[list[str]]:
    """The names of parameters, layer by layer as the model has them; the head is the last layer, by itself.

    A numbered block is a layer. What stands before the first block belongs to one layer, what stands between or after
    blocks to the one before it (Bao et al. 2022), and so do blocks without a matrix, such as norms.

    Args:
        dimensions: how many dimensions each parameter has, by name, in the model's order.
        head: names of the output layer's parameters.

    >>> names = {"stem.weight": 2, "b.0.fc.weight": 2, "b.0.fc.bias": 1, "b.1.fc.weight": 2, "norm.weight": 1}
    >>> names["fc.weight"] = 2
    >>> layers_of(names, frozenset({"fc.weight"}))
    [['stem.weight'], ['b.0.fc.weight', 'b.0.fc.bias'], ['b.1.fc.weight', 'norm.weight'], ['fc.weight']]
    """
    layers: list[list[str]] = []
    for names in _runs([name for name in dimensions if name not in head]):
        is_block = block_of(names[0]) is not None and max(dimensions[name] for name in names) > 1
        if is_block or not layers:
            layers.append([])
        layers[-1] += names
    last = [name for name in dimensions if name in head]
    return [*layers, last] if last else layers


def block_of(name: str) -> str | None:
    """The numbered block that a parameter belongs to.

    >>> block_of("bert.encoder.layer.3.attention.self.query.weight"), block_of("stages.1.0.conv.weight")
    ('bert.encoder.layer.3', 'stages.1.0')
    >>> block_of("fc.bias") is None
    True
    """
    parts = name.split(".")
    first = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return None
    last = first
    while last + 1 < len(parts) and parts[last + 1].isdigit():
        last += 1
    return ".".join(parts[: last + 1])


def _runs(names: Sequence[str]) -> Iterator[list[str]]:
    """Names in a row that belong to the same block, or to none."""
    run: list[str] = []
    for name in names:
        if run and block_of(name) != block_of(run[0]):
            yield run
            run = []
        run.append(name)
    if run:
        yield run
