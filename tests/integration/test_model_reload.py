"""A saved model gives the same bits in a process that has never seen it; a killed chain ends as an unbroken one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaledl.compress.prune import prune_model
from scaledl.config import Config, replace
from scaledl.config.schema import MLPConfig, PruneConfig, ResNetConfig
from scaledl.data import build_data
from scaledl.models.quantized import calibrating, convert, prepare_ptq, prepare_qat
from scaledl.models.structure import Model, new_model, save_model
from scaledl.run import Run

pytestmark = pytest.mark.integration

RELOAD = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from scaledl.models.quantized import convert, is_quantized
from scaledl.models.structure import load_model
torch.set_num_threads(1)
directory = Path(sys.argv[1])
model = load_model(directory)
x = load_file(directory / "inputs.safetensors")["x"]
with torch.inference_mode():
    outputs = {"prepared": model.module(x)}
    if is_quantized(model.structure):
        outputs["int8"] = convert(model)(x)
save_file(outputs, directory / "outputs.safetensors")
"""

CHAIN = """
import sys, torch
from pathlib import Path
from scaledl.compress.pipeline import run_chain
from scaledl.data import build_data
from scaledl.run import Run
source, run = Run.open(sys.argv[1]), Run.open(sys.argv[2])
run.begin()
run_chain(source, run.config, run, build_data(run.config.data, run.config.run.seed))
run.finish("complete")
"""


def python(script: str, *arguments: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def float_model(config: Any) -> Model:
    model = new_model(config, (1, 8, 8), 10, seed=0)
    with torch.no_grad():
        model.module.train()(torch.randn(64, 1, 8, 8))
    return Model(model.module.eval(), model.structure)


def pruned(model: Model) -> Model:
    return prune_model(model, PruneConfig(round_to=2), iter(()))


def quantized(model: Model, prepare_fn: Any) -> Model:
    prepared = prepare_fn(model, "x86")
    with calibrating(prepared.module), torch.no_grad():
        prepared.module(torch.randn(64, 1, 8, 8))
    return prepared


RESNET = ResNetConfig(family="resnet", depth=14, width=8)
MODELS = {
    "resnet": lambda: float_model(RESNET),
    "mlp pruned": lambda: pruned(float_model(MLPConfig(family="mlp", hidden=[32, 16]))),
    "resnet pruned twice, qat": lambda: quantized(pruned(pruned(float_model(RESNET))), prepare_qat),
    "resnet ptq": lambda: quantized(float_model(RESNET), prepare_ptq),
}


def test_outputs_are_bit_equal_in_a_fresh_process(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for name, make_fn in MODELS.items():
        directory, model = tmp_path / name, make_fn()
        save_model(model, directory)
        x = torch.randn(9, 1, 8, 8)
        save_file({"x": x}, directory / "inputs.safetensors")
        process = python(RELOAD, directory)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
        outputs = load_file(directory / "outputs.safetensors")
        with torch.inference_mode():
            assert torch.equal(outputs["prepared"], model.module(x)), name
            if "int8" in outputs:
                assert torch.equal(outputs["int8"], convert(model)(x)), name


def make_source(root: Path, config: Config) -> Run:
    data = build_data(config.data, 0)
    run = Run.create(root, "source", "1", config=config)
    run.begin()
    save_model(new_model(config.model, data.spec.in_shape, 10, seed=0), run.model_dir)
    run.record("model")
    run.finish("complete")
    return run


def digest(directory: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())]


def test_a_chain_killed_in_its_stages_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipe = [{"method": "prune", "round_to": 2, "epochs": 2}, {"method": "qat", "epochs": 2}]
    config = replace(
        Config(),
        {
            "run.root": str(tmp_path),
            "model": {"family": "resnet", "depth": 8, "width": 8},
            "trainer.precision": "fp32",
            "trainer.num_threads": 1,
            "trainer.checkpoint_every_n_steps": 2,
            "export.latency_batch_sizes": [1],
            "compress.stages": recipe,
        },
    )
    source = make_source(tmp_path, config)
    whole, cut = (Run.create(tmp_path, "chain", name, kind="compress", config=config) for name in ("whole", "cut"))
    process = python(CHAIN, source.path, whole.path)
    assert process.wait(timeout=300) == 0, process.communicate()[1].decode()
    for stage in ("01-prune", "02-qat"):
        kill_in_stage(source, cut, stage)
        assert cut.state == "killed"
        assert Run.open(cut.stages / stage).state == "killed"
    process = python(CHAIN, source.path, cut.path)
    assert process.wait(timeout=300) == 0, process.communicate()[1].decode()
    assert cut.state == "complete"
    assert Run.open(cut.stages / "02-qat").manifest.attempts == 2
    assert digest(cut.model_dir) == digest(whole.model_dir)


def kill_in_stage(source: Run, run: Run, stage: str) -> None:
    """Start the chain and send SIGKILL when this stage has saved its first checkpoint."""
    process = python(CHAIN, source.path, run.path)
    deadline = time.monotonic() + 200
    while not list((run.stages / stage / "checkpoints").glob("step-*.json")):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
