"""Whether the ranks on this node fit what the config asks for and what the node has. Nothing is sent."""

from __future__ import annotations

from scaledl.config import Config
from scaledl.distributed.environment import ClusterSpec
from scaledl.errors import UsageError, require_extra


def check_devices(spec: ClusterSpec, config: Config, gpus: int) -> None:
    """`gpus`: those that this process sees and may use, 0 with trainer.accelerator=cpu. Raises UsageError."""
    _check_counts(spec, config)
    _check_shares(spec, config)
    if gpus:
        _check_gpus(spec, config, gpus)
    trainer = config.trainer
    if trainer.strategy == "deepspeed":
        require_extra("deepspeed", "deepspeed")
        if trainer.channels_last is True:
            raise UsageError(
                "trainer.channels_last: got true with trainer.strategy 'deepspeed', which cannot send parameters in "
                "that layout; allowed with it: auto, false"
            )
        if trainer.precision == "bf16" and not gpus:
            raise UsageError(
                "trainer.precision: got 'bf16' with trainer.strategy 'deepspeed' on CPUs, where ZeRO trains in fp32; "
                "allowed there: fp32, auto"
            )
    if trainer.sync_batchnorm and not gpus and spec.world_size > 1:
        raise UsageError(
            "trainer.sync_batchnorm: got true, but these ranks train on CPUs; allowed there: false; "
            "PyTorch has it for GPUs only"
        )


def _check_counts(spec: ClusterSpec, config: Config) -> None:
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if devices not in ("auto", spec.local_world_size):
        raise UsageError(
            f"trainer.devices: got {devices}, but {_launcher(spec)} started {_ranks(spec.local_world_size)} on this "
            f"node; allowed: {spec.local_world_size}, auto; to have {devices}, start {_more_ranks(spec, int(devices))}"
        )
    if nodes not in ("auto", spec.num_nodes):
        how = f"sbatch --nodes={nodes}" if spec.job_id else f"torchrun --nnodes={nodes}"
        raise UsageError(
            f"trainer.num_nodes: got {nodes}, but {_launcher(spec)} started ranks on {_nodes(spec)}; "
            f"allowed: {spec.num_nodes}, auto; to have {nodes}, start with {how}"
        )


def _check_shares(spec: ClusterSpec, config: Config) -> None:
    least = spec.world_size * config.trainer.accumulate
    if config.data.batch_size < least and spec.world_size > 1:
        parts = f", each with {config.trainer.accumulate} micro-batches" if config.trainer.accumulate > 1 else ""
        raise UsageError(
            f"data.batch_size: got {config.data.batch_size} for {_ranks(spec.world_size)}{parts}; allowed: at least "
            f"{least}, a sample for each; it counts the samples of all ranks: raise it, or use fewer ranks"
        )


def _check_gpus(spec: ClusterSpec, config: Config, gpus: int) -> None:
    if spec.local_world_size > gpus:
        hidden = "; --gpus-per-task and --gpu-bind hide the others: use --gpus-per-node" if spec.job_id else ""
        raise UsageError(
            f"GPUs: this node shows {gpus} to each of its {_ranks(spec.local_world_size)}; allowed: at most {gpus} "
            f"a node, or trainer.accelerator=cpu; start {_more_ranks(spec, gpus)}{hidden}"
        )
    if spec.launcher == "slurm" and spec.local_world_size == 1 < gpus and config.trainer.devices == "auto":
        raise UsageError(
            f"GPUs: this node has {gpus} of them but one task, and the others would idle; start with "
            f"--ntasks-per-node={gpus}, or say trainer.devices=1 to use one"
        )


def _launcher(spec: ClusterSpec) -> str:
    return {"slurm": "srun", "env": "the launcher", "none": "you"}[spec.launcher]


def _more_ranks(spec: ClusterSpec, count: int) -> str:
    if spec.launcher == "slurm":
        return f"with --ntasks-per-node={count}"
    return f"{_ranks(count)} a node (torchrun --nproc-per-node={count})"


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count != 1 else ''}"


def _nodes(spec: ClusterSpec) -> str:
    shown = f" ({', '.join(spec.nodes[:8])}{', …' if len(spec.nodes) > 8 else ''})" if spec.nodes else ""
    return f"{spec.num_nodes} node{'s' if spec.num_nodes != 1 else ''}{shown}"
