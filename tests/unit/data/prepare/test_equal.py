"""Things that stand for others that are equal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledl.data.prepare.equal import Equals

pytestmark = pytest.mark.unit

THINGS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["train", "val", "test"])), min_size=1, max_size=30)


@given(THINGS)
def test_each_meets_every_split_that_has_the_same(things: list[tuple[int, str]]) -> None:
    contents, splits = [content for content, _ in things], [split for _, split in things]
    equals = Equals(contents, splits)
    assert [things[number] for number in equals.first] == list(dict.fromkeys(things))
    pairs = equals.pairs([])
    assert pairs == sorted({(min(pair), max(pair)) for pair in pairs})
    assert all(one != other and contents[one] == contents[other] for one, other in pairs)
    met = {(one, splits[other]) for pair in pairs for one, other in (pair, pair[::-1])}
    for number, (content, _) in enumerate(things):
        others = {split for other, (same, split) in enumerate(things) if same == content and other != number}
        assert {split for one, split in met if one == number} == others
    assert len(pairs) <= 3 * len(things)


def test_what_is_near_to_one_is_near_to_its_equals() -> None:
    equals = Equals(["a", "b", "a", "b", "c"], ["", "", "", "", ""])
    assert equals.first == [0, 1, 4]
    assert equals.pairs([(0, 1)]) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
