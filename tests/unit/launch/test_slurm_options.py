"""What a batch job may be asked for, and what is refused with a reason."""

from __future__ import annotations

import pytest

from scaledl.config import Config, replace
from scaledl.errors import UsageError
from scaledl.launch.options import SlurmOptions, memory_bytes, time_seconds

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["", "0", "0:30", "1:60:00", "4h", "1-2-3", "1:2:3:4", "-1", "1 0", "٣", "99999999"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--time: got"):
        time_seconds(text)


@pytest.mark.parametrize("text", ["", "0", "12.5G", "G", "16 G", "16GB", "-1"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--mem: got"):
        memory_bytes(text)


@pytest.mark.parametrize(
    ("keys", "flag"),
    [
        ({"partition": "gpu;rm"}, "--partition"),
        ({"partition": ""}, "--partition"),
        ({"account": "a b"}, "--account"),
        ({"qos": "-x"}, "--qos"),
        ({"array": "1-"}, "--array"),
        ({"array": "a"}, "--array"),
        ({"name": "a/b"}, "--name"),
        ({"name": "x\n#SBATCH --wrap"}, "--name"),
        ({"name": "bash"}, "--name"),
        ({"time": "soon"}, "--time"),
        ({"mem": "much"}, "--mem"),
    ],
)
def test_what_sbatch_would_take_for_something_else(keys: dict[str, str], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag}: got"):
        SlurmOptions(**keys).check()


def test_good_options_pass_and_become_directives() -> None:
    options = SlurmOptions(
        nodes=2,
        tasks=4,
        gpus=4,
        cpus=8,
        time="1-12",
        partition="gpu,long",
        account="lab",
        qos="high",
        mem="64G",
        array="0-7:2,9%3",
        name="resnet",
    )
    options.check()
    assert options.directives() == {
        "job-name": "resnet",
        "nodes": "2",
        "ntasks-per-node": "4",
        "gpus-per-node": "4",
        "cpus-per-task": "8",
        "time": "1-12",
        "partition": "gpu,long",
        "account": "lab",
        "qos": "high",
        "mem": "64G",
        "array": "0-7:2,9%3",
    }


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"trainer.num_nodes": 4}, SlurmOptions(nodes=2), r"trainer\.num_nodes: the config says 4, --nodes 2"),
        ({"trainer.devices": 4}, SlurmOptions(tasks=2, gpus=2), r"trainer\.devices: the config says 4, --gpus 2"),
    ],
)
def test_a_config_that_fixes_another_layout(changes: dict[str, int], options: SlurmOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options.agree_with(replace(Config(), changes))
    options.agree_with(Config())
