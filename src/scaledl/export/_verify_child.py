"""Run an artifact where scaledl is not: this file is started by itself, with torch and safetensors and nothing else.

Reads request.json in the folder given as the only argument, writes report.json and outputs.safetensors there. It judges
nothing: the process that started it compares the outputs.
"""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

INT8_PREFIXES = (
    "quantized::conv",
    "quantized::linear",
    "quantized::add",
    "quantized::mul",
    "quantized::batch_norm",
    "quantized::cat",
    "aten::quantized_lstm",
    "aten::quantized_gru",
    "quantized::quantized_rnn",
    "quantized::embedding",
)
FLOAT_KERNELS = frozenset(
    {
        "aten::conv1d",
        "aten::conv2d",
        "aten::conv3d",
        "aten::convolution",
        "aten::_convolution",
        "aten::mkldnn_convolution",
        "aten::thnn_conv2d",
        "aten::linear",
        "aten::mkldnn_linear",
        "aten::addmm",
        "aten::mm",
        "aten::lstm",
        "aten::gru",
        "aten::rnn_tanh",
        "aten::rnn_relu",
        "mkldnn::_convolution_pointwise",
        "mkldnn::_linear_pointwise",
        "prepacked::conv2d_clamp_run",
        "prepacked::linear_clamp_run",
    }
)
PRODUCTS = frozenset({"aten::scaled_dot_product_attention", "aten::bmm", "aten::baddbmm"})
CHUNK = 256
WARM_UP_SECONDS = 0.05
Manifest = dict[str, Any]


def main(folder: Path) -> None:
    request = json.loads((folder / "request.json").read_text())
    data = Path(request["artifact"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != request["sha256"]:
        raise SystemExit("the file changed while it was being verified")
    torch.set_num_threads(request["threads"])
    extra = {"scaledl.json": "", "cases.safetensors": ""}
    module = load_module(data, None, extra)
    manifest = json.loads(extra["scaledl.json"])
    engine = manifest["int8"]["engine"] if manifest["int8"] else None
    module = load_module(data, engine)
    cases = normalize(load(as_bytes(extra["cases.safetensors"]))["inputs"], manifest)
    with torch.inference_mode():
        outputs = run_cases(module, cases, request["batch_sizes"])
        if (folder / "inputs.safetensors").is_file():
            inputs = load_file(folder / "inputs.safetensors")["inputs"]
            outputs["test"] = torch.cat([module(normalize(part, manifest)) for part in inputs.split(CHUNK)])
        report = {
            "engine": engine,
            "kernels": count_kernels(module, cases[:1]),
            "latency": measure_all(data, engine, cases, request),
            "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        }
    save_file({name: value.contiguous() for name, value in outputs.items()}, folder / "outputs.safetensors")
    report["scaledl_imported"] = any(name.split(".")[0] == "scaledl" for name in sys.modules)
    (folder / "report.json").write_text(json.dumps(report))


def load_module(data: bytes, engine: str | None, extra: dict[str, str] | None = None) -> torch.jit.ScriptModule:
    """The engine decides how int8 weights are packed, at load, so it is set first."""
    if engine is not None:
        torch.backends.quantized.engine = engine
    module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(data), map_location="cpu", _extra_files=extra)
    return module


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")


def normalize(inputs: Tensor, manifest: Manifest) -> Tensor:
    """By the numbers that stand in the file: uint8 [N, H, W, C] -> float32 [N, C, H, W], others in their own shape;
    token ids are taken as they are."""
    if manifest["input"]["layout"] == "NT":
        return inputs.long()
    steps = manifest["preprocessing"]
    mean, std = (torch.tensor(steps[key], dtype=torch.float32) for key in ("mean", "std"))
    if inputs.dtype != torch.uint8:
        shape = (len(mean), *[1] * (inputs.ndim - 2))
        return (inputs - mean.view(shape)).div_(std.view(shape))
    return inputs.to(torch.float32).div_(255).sub_(mean).div_(std).permute(0, 3, 1, 2)


def run_cases(module: torch.jit.ScriptModule, cases: Tensor, batch_sizes: list[int]) -> dict[str, Tensor]:
    """Outputs of the cases in one batch, one by one, and in batches of each size (cases repeated as needed)."""
    outputs = {"cases": module(cases), "singles": torch.cat([module(case) for case in cases.split(1)])}
    for size in batch_sizes:
        outputs[f"batch_{size}"] = module(cases[torch.arange(size) % len(cases)])
    return outputs


def count_kernels(module: torch.jit.ScriptModule, x: Tensor) -> dict[str, dict[str, int]]:
    """Kernels that one forward pass executed: int8, float layers with weights, and products of activations, as in
    attention, which are float in every file; of the latter two outermost calls."""
    for _ in range(3):  # the executor specialises the graph in its first runs
        module(x)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        module(x)
    int8: Counter[str] = Counter()
    float32: Counter[str] = Counter()
    products: Counter[str] = Counter()
    for event in trace.events():
        if event.name.startswith(INT8_PREFIXES):
            int8[event.name] += 1
        elif event.name in FLOAT_KERNELS | PRODUCTS and not inside(event, FLOAT_KERNELS | PRODUCTS):
            (float32 if event.name in FLOAT_KERNELS else products)[event.name] += 1
    return {"int8": dict(int8), "float": dict(float32), "products": dict(products)}


def inside(event: Any, names: frozenset[str]) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in names:
            return True
        parent = parent.cpu_parent
    return False


def measure_all(data: bytes, engine: str | None, cases: Tensor, request: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Latency at each batch size, of a module loaded anew: int8 kernels are cached for the first size they meet."""
    torch.set_num_threads(request["latency_threads"])
    return {
        str(size): measure(
            load_module(data, engine), cases[torch.arange(size) % len(cases)], request["latency_seconds"]
        )
        for size in request["latency_batch_sizes"]
    }


def measure(module: torch.jit.ScriptModule, x: Tensor, seconds: float) -> dict[str, float]:
    """Milliseconds a call: after a warm-up, at least 20 calls and at least `seconds`."""
    timed_calls(module, x, WARM_UP_SECONDS, 3)
    times = sorted(timed_calls(module, x, seconds, 20))
    return {
        "minimum_ms": times[0],
        "p50_ms": statistics.median(times),
        "p95_ms": times[min(len(times) - 1, int(0.95 * len(times)))],
    }


def timed_calls(module: torch.jit.ScriptModule, x: Tensor, seconds: float, least: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        module(x)
        times.append((time.perf_counter() - start) * 1e3)
    return times


if __name__ == "__main__":
    main(Path(sys.argv[1]))
