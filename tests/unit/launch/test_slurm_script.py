"""The batch script is a value: rendered from typed options, compared with files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scaledl.launch.options import SlurmOptions
from scaledl.launch.script import logic, render

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[3]
CASES = {
    "plain": ([], SlurmOptions(name="digits"), []),
    "cluster": (
        ["optimizer.lr=0.1", "run.name=it's $HOME"],
        SlurmOptions(nodes=4, tasks=8, gpus=8, cpus=12, time="2-00:00:00", partition="gpu", name="resnet"),
        ["Estimated by `scaledl plan`: 12 GB of GPU memory a rank", "a note\nof two lines"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_script_is_the_golden_one(name: str) -> None:
    """After a change that is meant: SCALEDL_GOLDEN=1 pytest tests/unit/launch writes the files anew."""
    overrides, options, notes = CASES[name]
    arguments = ["configs/resnet.yaml", *overrides]
    made_by = "scaledl launch slurm configs/resnet.yaml"
    script = render(
        (GOLDEN / "logic.sh").read_text(),
        arguments,
        options.directives(),
        made_by=made_by,
        notes=notes,
        variables={"SCALEDL_VENV": "/opt/venv"} if notes else None,
    )
    path = GOLDEN / f"{name}.sh"
    if os.environ.get("SCALEDL_GOLDEN") == "1":
        path.write_text(script)
    assert script == path.read_text()


@pytest.mark.parametrize("name", ["train", "compress"])
def test_the_logic_is_the_file_in_slurm_and_the_script_parses(name: str) -> None:
    script = render(logic(name), ["a b.yaml"], SlurmOptions().directives(), made_by="test")
    lines = script.splitlines()
    for source in (f"{name}.sh", "common.sh"):
        own = (ROOT / "slurm" / source).read_text().splitlines()
        missing = [line for line in own if line not in lines and not line.startswith(("#", ". slurm/"))]
        assert all("common.sh" in line for line in missing), f"slurm/{source} is not in the script"
    assert "slurm/common.sh" not in "".join(line for line in lines if line.startswith((". ", "if ", "elif ")))
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_arguments_reach_the_logic_as_they_were_given() -> None:
    arguments = ["a b.yaml", "run.name=x'y", 'k="$(touch x)"', "line\n#SBATCH --wrap=no", "-x", "*"]
    text = '#!/bin/bash\n#SBATCH --nodes=1\nprintf \'%s\\0\' "$ODD" "$@"\n'
    odd = 'a b}"$HOME`id`\\'
    arguments = [odd, *arguments]
    script = render(text, arguments[1:], {"nodes": "2"}, made_by="a command\nof two lines", variables={"ODD": odd})
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == arguments
    directives = [line for line in script.partition("\nset -- ")[0].splitlines() if line.startswith("#SBATCH")]
    assert directives == ["#SBATCH --nodes=2"]
