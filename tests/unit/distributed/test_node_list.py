"""Slurm's lists of nodes, against a reference that expands them one bracket at a time, and against Slurm itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledl.distributed.node_list import expand_counts, expand_node_list
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

_NAME = st.text("abz-.", min_size=1, max_size=4)


@st.composite
def _range(draw: st.DrawFn) -> tuple[str, list[str]]:
    first, count = draw(st.integers(0, 1200)), draw(st.integers(1, 12))
    width = draw(st.integers(0, 5))
    numbers = [f"{number:0{width}}" for number in range(first, first + count)]
    return (numbers[0] if count == 1 else f"{numbers[0]}-{numbers[-1].lstrip('0') or '0'}"), numbers


@st.composite
def _item(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A name with up to two brackets, and what it stands for."""
    text = draw(_NAME)
    nodes = [text]
    for _ in range(draw(st.integers(0, 2))):
        ranges = draw(st.lists(_range(), min_size=1, max_size=3))
        suffix = draw(st.sampled_from(["", "x", "-ib"]))
        text += f"[{','.join(short for short, _ in ranges)}]{suffix}"
        nodes = [node + number + suffix for node in nodes for _, numbers in ranges for number in numbers]
    return text, nodes


@settings(max_examples=300, deadline=None)
@given(st.lists(_item(), min_size=1, max_size=4))
def test_every_list_expands_to_what_it_was_made_of(items: list[tuple[str, list[str]]]) -> None:
    text = ",".join(short for short, _ in items)
    assert expand_node_list(text) == tuple(node for _, nodes in items for node in nodes)


@settings(max_examples=300, deadline=None)
@given(st.text("n12[]-, x()", max_size=20))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(UsageError):
        nodes = expand_node_list(text)
        assert nodes
        assert all(nodes)


@pytest.mark.parametrize(
    "text", ["", " ", ",", "a,,b", "n[", "n]", "n[]", "n[1", "n[[1]]", "n[3-1]", "n[a-b]", "n[1-2-3]"]
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="allowed: node names with ranges"):
        expand_node_list(text)


@pytest.mark.parametrize("text", ["n[0-999999999]", "n[0-65536]", "n[0-9999][0-9999]", ",".join(["n[0-40000]"] * 2)])
def test_a_list_that_would_fill_the_memory_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="allowed: "):
        expand_node_list(text)


@pytest.mark.parametrize(
    "text",
    ["n1", "n[1-3,07],gpu-a", "r[0-1]n[8-9]", "n[08-11]", "n[8-012]", "a,b,a", "n[1,1]", "x.cluster[0-3]"],
)
def test_slurm_reads_it_the_same_way(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("scontrol") is None:
        if os.environ.get("SCALEDL_REQUIRE_ALL") == "1":
            pytest.fail("SCALEDL_REQUIRE_ALL=1, but there is no scontrol")
        pytest.skip("there is no scontrol")
    (tmp_path / "slurm.conf").write_text(
        "ClusterName=test\nSlurmctldHost=localhost\nNodeName=n1\nPartitionName=p Nodes=n1\n"
    )
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    done = subprocess.run(["scontrol", "show", "hostnames", text], capture_output=True, text=True, check=True)
    assert expand_node_list(text) == tuple(done.stdout.split())


@pytest.mark.parametrize(
    ("text", "counts"), [("1", (1,)), ("2(x3),1", (2, 2, 2, 1)), ("1,2,1(x2)", (1, 2, 1, 1)), ("16(x1)", (16,))]
)
def test_counts(text: str, counts: tuple[int, ...]) -> None:
    assert expand_counts("KEY", text) == counts


@pytest.mark.parametrize("text", ["", "x", "2(3)", "2(x0)", "2(x99999)", "1,,1", "-1", "1 ,2"])
def test_wrong_counts_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^KEY: got .*; allowed: counts of tasks"):
        expand_counts("KEY", text)
