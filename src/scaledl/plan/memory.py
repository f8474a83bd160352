"""From one measured rank to the memory of a rank in any layout. Pure arithmetic, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from scaledl.config import Config
from scaledl.plan.layout import Layout
from scaledl.plan.measure import Measured

STATES = {  # tensors like the parameters: moments, momentum, sums; of muon's, most have a momentum only
    **{"sgd": 1, "momentum": 1, "nesterov": 1, "adam": 2, "adamw": 2, "amsgrad": 3, "nadam": 2, "adagrad": 1},
    **{"adadelta": 2, "rmsprop": 1, "adagrad_da": 3, "ftrl": 2, "lion": 1, "lamb": 2, "muon": 1},
}
_OWN = 2  # of somebody's own optimizer


@dataclass(frozen=True)
class Memory:
    """The busiest rank's, rank 0.

    `parts`: of the training phase, where it trains (a GPU, else the host); they add up to that phase's peak. `peaks`:
    there, by phase. `host_peak`: the largest resident size of the process.
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

    The trial was one rank under the same strategy with the same share of the batch: its process, data and activations
    are as measured. Computed is what many ranks have beside that, or only their shares of.
    """
    changes = _zero(config, layout, measured) if layout.stage else _ddp(layout, measured)
    found = measured.gpu_peaks or measured.host_peaks
    peaks = {phase: peak + changes.get(phase, 0) for phase, peak in found.items()}
    parts = _parts(config, layout, measured)
    parts["other"] = max(0, peaks["train"] - sum(parts.values()))
    return Memory(parts, peaks, max(measured.host_peaks.values()) if measured.gpu else max(peaks.values()))


def _ddp(layout: Layout, measured: Measured) -> dict[str, int]:
    """Memory that is shared, or buckets, hold the gradients also between steps, beside those of a backward pass."""
    if layout.world_size == 1:
        return {}
    gradients = measured.trainable_bytes
    return dict.fromkeys(("train", "validate", "save"), gradients)


def _zero(config: Config, layout: Layout, measured: Measured) -> dict[str, int]:
    """Each rank keeps its share (Rajbhandari et al. 2020) of the optimizer's states, in training also of the averaged
    gradients; in stage 3 of the weights too, but they are gathered layer by layer.
    """
    elsewhere = measured.trainable_bytes * (layout.world_size - 1) // layout.world_size
    if layout.offload_optimizer and measured.gpu:
        elsewhere = 0  # these were on the host
    states = num_states(config) + _own_copies(layout, measured) + (1 if layout.stage == 3 else 0)
    return {"train": -(states + 1) * elsewhere, "validate": -states * elsewhere, "save": -states * elsewhere}


def _parts(config: Config, layout: Layout, measured: Measured) -> dict[str, int]:
    """All that training holds but what is other: activations, workspace, buffers."""
    ranks, stage = layout.world_size, layout.stage
    held, trainable = measured.parameter_bytes + measured.buffer_bytes, measured.trainable_bytes
    copies = bool(config.trainer.ema_decay or config.trainer.swa_start) + bool(config.optimizer.sam_rho)
    states = (num_states(config) + _own_copies(layout, measured)) * trainable
    process = {} if measured.gpu else {"process": measured.process_bytes, "data": measured.data_bytes}
    return {
        **process,
        "model": copies * held + (held // ranks if stage == 3 else held),
        "gradients": trainable // ranks if stage >= 2 else trainable,
        "optimizer": states // ranks if stage else states,
    }


def _own_copies(layout: Layout, measured: Measured) -> int:
    """ZeRO steps on the weights themselves, unless these have another type than fp32."""
    return 1 if layout.stage and measured.precision != "fp32" else 0


def num_states(config: Config) -> int:
    """Tensors in the shape of a parameter that the optimizer keeps for it."""
    momentum = config.optimizer.settings().get("momentum")
    if config.optimizer.name in ("sgd", "momentum", "nesterov") and not momentum:
        return 0
    return STATES.get(config.optimizer.name, _OWN) + (config.optimizer.name == "rmsprop" and bool(momentum))
