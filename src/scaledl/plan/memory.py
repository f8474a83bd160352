"""From one measured rank to the memory of a rank in any layout. Pure arithmetic, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from scaledl.config import Config
from scaledl.plan.layout import Layout
from scaledl.plan.measure import Measured

STATES = {"adamw": 2, "sgd": 1}  # tensors like the parameters: two moments; momentum


@dataclass(frozen=True)
class Memory:
    """The busiest rank's, rank 0.

    `parts`: of the training phase where it trains (a GPU, else the host). `peaks`: there, by phase. `host_peak`: the
    largest resident size of the process.
    """

    parts: dict[str, int]
    peaks: dict[str, int]
    host_peak: int

    @property
    def peak(self) -> int:
        return max(self.peaks.values())

    @property
    def peak_phase(self) -> str:
        return max(self.peaks, key=lambda phase: self.peaks[phase])


def memory(config: Config, layout: Layout, measured: Measured) -> Memory:
    """What a rank of this layout takes.

    The trial was one rank with the same share of the batch, so activations, data and process are as measured. What
    differs is computed: ZeRO shards (Rajbhandari et al. 2020), and copies that ranks need to exchange.
    """
    alone, parts = _parts(config, Layout(), measured), _parts(config, layout, measured)
    change = sum(parts.values()) - sum(alone.values())
    measured_peaks = measured.gpu_peaks or measured.host_peaks
    parts["activations"] = max(0, measured_peaks["train"] - sum(alone.values()))
    peaks = {phase: peak + _change(phase, change, layout, measured) for phase, peak in measured_peaks.items()}
    return Memory(parts, peaks, max(measured.host_peaks.values()) if measured.gpu else max(peaks.values()))


def _change(phase: str, change: int, layout: Layout, measured: Measured) -> int:
    """Before the first step there are neither gradients nor states; the result is evaluated whole, by rank 0."""
    del layout, measured
    return change if phase in ("train", "validate", "save") else 0


def _parts(config: Config, layout: Layout, measured: Measured) -> dict[str, int]:
    """All that training holds but activations."""
    ranks = layout.world_size
    held = measured.parameter_bytes + measured.buffer_bytes
    gradients = measured.trainable_bytes
    states = num_states(config) * measured.trainable_bytes
    # The model as it was before training stays on the host.
    copies = (1 if measured.gpu else 2) + (1 if config.trainer.ema_decay else 0)
    process = measured.process_bytes + (measured.deepspeed_bytes if layout.stage else 0)
    parts = {} if measured.gpu else {"process": process, "data": measured.data_bytes}
    return {
        **parts,
        "model": copies * held,
        "gradients": gradients // ranks if layout.stage >= 2 else gradients,
        "optimizer": states // ranks if layout.stage >= 1 else states,
    }


def num_states(config: Config) -> int:
    """Tensors in the shape of a parameter that the optimizer keeps for it."""
    if config.optimizer.name == "sgd" and not config.optimizer.momentum:
        return 0
    return STATES[config.optimizer.name]
