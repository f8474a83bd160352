"""Categories become columns of zeros and ones, or codes behind the numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scaledl.data.table_features import features_of
from scaledl.errors import UsageError
from scaledl.runtime.columns import TableColumn

pytestmark = pytest.mark.unit


def column(categories: int, name: str = "c") -> TableColumn:
    return TableColumn(name, tuple(map(str, range(categories))))


def one_hot(features: Tensor, columns: list[TableColumn]) -> Tensor:
    return features_of(features, columns, codes=False)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(0, 12), st.integers(0, 1000))
def test_each_category_has_its_column_and_unknown_ones_have_none(widths: list[int], rows: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.stack(
        [
            torch.randint(0, width + 1, (rows,), generator=generator).float()
            if width
            else torch.randn(rows, generator=generator)
            for width in widths
        ],
        1,
    )
    expected = [
        [
            value
            for width, cell in zip(widths, row, strict=True)
            for value in ([cell] if not width else [float(cell == k) for k in range(1, width + 1)])
        ]
        for row in features.tolist()
    ]
    found = one_hot(features, [column(width) for width in widths])
    assert found.tolist() == expected


def test_a_table_of_numbers_is_left_where_it_is() -> None:
    features = torch.randn(3, 2)
    assert one_hot(features, [column(0), column(0)]) is features


def test_too_many_columns() -> None:
    columns = [column(0), column(20_000, "street")]
    with pytest.raises(
        UsageError,
        match=r"20,001 columns .*allowed: 16,384; .*embed, .*exclude=\[street\], which has 20,000",
    ):
        one_hot(torch.zeros(1, 2), columns)


def test_too_many_values() -> None:
    with pytest.raises(UsageError, match=r"1,000,000 rows of 10,001 columns, .* take 37 GiB; allowed: 16; fix: "):
        one_hot(torch.zeros(1, 2).expand(1_000_000, 2), [column(0), column(10_000)])


def test_a_code_without_a_category_is_an_unknown_one() -> None:
    assert one_hot(torch.tensor([[3.0], [2.0]]), [column(2)]).tolist() == [[0, 0], [0, 1]]


def test_codes_stand_behind_the_numbers_in_any_count() -> None:
    columns = [column(20_000, "street"), column(0, "x"), column(2, "sex"), column(0, "y")]
    stored = torch.tensor([[3.0, 0.5, 2.0, -1.0], [0.0, 0.1, 1.0, 7.0]])
    assert features_of(stored, columns, codes=True).tolist() == stored[:, [1, 3, 0, 2]].tolist()
