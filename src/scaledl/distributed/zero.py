"""DeepSpeed ZeRO (Rajbhandari et al. 2020) under Lightning, on GPUs and CPUs; its state belongs to no world size.

Lightning's strategy refuses CPUs and writes DeepSpeed's own files, which are pickles tied to a number of ranks. This
one gathers whole tensors through DeepSpeed's `safe_get_full_*` calls: a checkpoint has the form it has without ZeRO.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from types import MethodType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy
from pytorch_lightning.strategies.strategy import Strategy
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from typing_extensions import override

from scaledl.config import Config
from scaledl.distributed.deferred import Deferred, gather_all
from scaledl.distributed.memory import release_free_memory, return_large_blocks
from scaledl.distributed.ranks import Ranks
from scaledl.distributed.saved import SavedWeights
from scaledl.models.blank import empty_like, fill


def build_zero_strategy(config: Config, environment: Any, ranks: Ranks, *, gpu: bool) -> Strategy:
    """The strategy for `trainer.deepspeed`."""
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        return_large_blocks()
    # DeepSpeed announces every step of its set-up through this logger.
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    section = config.trainer.deepspeed
    zero: dict[str, Any] = {"stage": section.stage, "contiguous_gradients": True, "overlap_comm": gpu}
    if section.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": gpu}
    if section.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": gpu}
    zero |= _buckets(section.stage)
    return ZeroStrategy(
        config={
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "train_micro_batch_size_per_gpu": 1,  # for a log line of DeepSpeed only
        },
        cluster_environment=environment,
        process_group_backend=distributed.get_backend(),
        timeout=timedelta(seconds=ranks.timeout_seconds),
    )


def _buckets(stage: int) -> dict[str, Any]:
    """Sizes in elements. DeepSpeed's defaults take 2 GB a rank before the first step, whatever the model's size."""
    size = 4_000_000
    sizes: dict[str, Any] = {"reduce_bucket_size": size, "allgather_bucket_size": size}
    if stage == 3:
        sizes |= {"stage3_prefetch_bucket_size": size, "stage3_max_live_parameters": 4 * size}
        sizes |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 4 * size}
    return sizes


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO 1 to 3. Checkpoints, accumulation and restoring behave as under any other strategy."""

    _saved_weights: SavedWeights | None = None

    @property
    @override
    def root_device(self) -> torch.device:
        assert self.parallel_devices is not None
        device = self.parallel_devices[self.local_rank]
        return torch.device("cpu", 0) if device.type == "cpu" else device

    @override
    def setup_environment(self) -> None:
        assert self.accelerator is not None
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    @override
    def setup_distributed(self) -> None:
        import deepspeed

        # It would compile an extension for ranks that share a machine, whether or not they do.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with _quiet_deepspeed():
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    @override
    def init_deepspeed(self) -> None:
        assert isinstance(self.model, nn.Module)
        # DeepSpeed has its own, and Lightning would warn that ours is not called.
        self._task.backward = MethodType(pl.LightningModule.backward, self._task)
        with _quiet_deepspeed():
            if self._task.arrives_in_shards:
                self._shard()
            self._initialize_deepspeed_train(self.model)
        self._share_weights()
        if self.zero_stage_3:
            self._saved_weights = SavedWeights(self._task.model)
        release_free_memory()

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self._saved_weights.left_out() if self._saved_weights else nullcontext():
            return super().training_step(*args, **kwargs)

    @property
    def _task(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module

    def _shard(self) -> None:
        """Cut up one parameter after the other, with rank 0's values: on other ranks they have none before."""
        import deepspeed

        init = deepspeed.zero.Init(config_dict_or_path=self.config, dtype=torch.float32)
        module = self._task.model
        for parameter in list(module.parameters()):
            if parameter.is_meta:
                parameter = fill(module, parameter, empty_like(parameter))
            init._convert_to_zero_parameters([parameter])
        release_free_memory()

    def _share_weights(self) -> None:
        """In fp32 the optimizer may step on the weights themselves, of which DeepSpeed has made it a copy."""
        zero = self.deepspeed_engine.optimizer
        if hasattr(zero, "fp32_partitioned_groups_flat"):
            used = zero.fp16_partitioned_groups_flat
        else:
            rank = distributed.get_rank()
            used = [partitions[rank] for partitions in zero.parallel_partitioned_bit16_groups]
        for own, weights in zip(_flat_partitions(zero), used, strict=True):
            if weights is not None and (own.dtype, own.device) == (weights.dtype, weights.device):
                own.data = weights.data
        if not hasattr(zero, "fp32_partitioned_groups_flat"):
            zero._link_all_hp_params()  # to where they are now

    @override
    def _format_batch_size_and_grad_accum_config(self) -> None:
        assert isinstance(self.config, dict)
        self.config["gradient_accumulation_steps"] = 1  # whose end Lightning decides: also that of an uneven window
        self.config["gradient_clipping"] = self._task.gradient_clip or 0.0

    @property
    @override
    def handles_gradient_accumulation(self) -> bool:
        return False

    @contextmanager
    @override
    def block_backward_sync(self) -> Iterator[None]:
        engine = self.deepspeed_engine
        engine.set_gradient_accumulation_boundary(False)
        try:
            yield
        finally:
            engine.set_gradient_accumulation_boundary(True)

    def discard_gradients(self) -> None:
        """Forget what backward passes since the last step have added up."""
        zero = self.deepspeed_engine.optimizer
        zero.zero_grad()
        if self.zero_stage_3:
            zero.micro_step_id = 0
        else:
            from deepspeed.runtime.zero.stage_1_and_2 import INITIAL_MICRO_STEP_ID

            zero.micro_step_id = INITIAL_MICRO_STEP_ID
            zero.averaged_gradients.update(dict.fromkeys(zero.averaged_gradients))

    # State in the form of an ordinary optimizer and module

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Buffers as they are; a parameter is gathered when it is its turn to be written."""
        module = self._task
        state: dict[str, Any] = {
            name: buffer.detach()
            for name, buffer in module.named_buffers(remove_duplicate=False)
            if _is_persistent(module, name)
        }
        for name, parameter in module.named_parameters(remove_duplicate=False):
            state[name] = Deferred(_shape(parameter), torch.float32, partial(self._whole, parameter))
        return {name: state[name] for name in _state_names(module)}

    def take_whole_state(self) -> dict[str, Tensor]:
        """At the end: the state, on the CPU of rank 0 only. The optimizer's own goes before it, to make room."""
        self._inner.state.clear()
        state: dict[str, Tensor] = {}
        for name, value in self.lightning_module_state_dict().items():
            tensor = value.gather() if isinstance(value, Deferred) else value
            if self.is_global_zero:
                state[name] = tensor.detach().to("cpu", copy=True)
        return state

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        full = safe_get_full_fp32_param(parameter)
        if isinstance(full, Tensor):
            return full.view(_shape(parameter))
        if not hasattr(parameter, "ds_id"):
            return parameter.detach()
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):  # not trained: no optimizer holds it
            return parameter.detach().clone()

    @override
    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        self._link()
        inner, parameters = self._inner, self._parameters()
        keys, counters = _state_keys(inner), _counters(_any_state(inner))
        state: dict[int, dict[str, Any]] = {}
        for number, parameter in enumerate(parameters if keys or counters else []):
            tensors: dict[str, Any] = {
                key: Deferred(_shape(parameter), torch.float32, partial(self._whole_state, parameter, key))
                for key in keys
            }
            state[number] = {**copy.deepcopy(counters), **tensors}
        return {"state": state, "param_groups": self._plain_groups()}

    def _whole_state(self, parameter: nn.Parameter, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        tensor: Tensor = safe_get_full_optimizer_state(parameter, key)
        return tensor.view(_shape(parameter))

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)
        if not self.is_global_zero:
            gather_all(checkpoint)  # as rank 0 does while it writes

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        module, state = self._task, checkpoint["state_dict"]
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in state:
                    buffer.resize_(state[name].shape).copy_(state[name])  # the ranges of observers have none at first
            for name, parameter in module.named_parameters():
                value = state[name].to(self.root_device)
                _set_full(parameter, value)
                # what forward passes use, beside the optimizer's own copy in fp32
                shard = getattr(parameter, "ds_tensor", None)
                if shard is None:
                    parameter.data.copy_(value)
                else:
                    shard.data.copy_(_shard_of(value, shard.numel()))

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        saved = checkpoint["optimizer_states"][0]["state"]
        if not saved:
            return
        first = next(iter(saved.values()))
        counters = _counters(first)
        keys = [key for key in first if key not in counters]
        self._make_room(keys, counters)
        for number, parameter in enumerate(self._parameters()):
            for key in keys:
                _set_full(parameter, saved[number][key].to(self.root_device), key)

    def _make_room(self, keys: list[str], counters: dict[str, Any]) -> None:
        """DeepSpeed has no optimizer state before its first step: make what that step would make."""
        zero = self.deepspeed_engine.optimizer
        for flat in _flat_partitions(zero):
            state = self._inner.state[flat]
            state.update({key: torch.zeros_like(flat) for key in keys})
            state.update(copy.deepcopy(counters))
        self._link()

    def _link(self) -> None:
        """Let parameters find their optimizer state: DeepSpeed does so after the first of several groups has stepped,
        when the others have none."""
        zero = self.deepspeed_engine.optimizer
        if hasattr(zero, "_lazy_init_hp_params_optimizer_state") and _any_state(zero.optimizer):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    @property
    def _inner(self) -> Optimizer:
        """The torch optimizer under DeepSpeed's."""
        inner = self.deepspeed_engine.optimizer.optimizer
        assert isinstance(inner, Optimizer)
        return inner

    def _parameters(self) -> list[nn.Parameter]:
        """In the order in which an ordinary optimizer counts them."""
        return [parameter for group in self._groups() for parameter in group]

    def _groups(self) -> list[list[nn.Parameter]]:
        groups: list[list[nn.Parameter]] = self._task.parameter_groups()
        return groups

    def _plain_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = []
        count = 0
        for section, members in zip(self._inner.param_groups, self._groups(), strict=True):
            plain = {key: value for key, value in section.items() if key != "params"}
            groups.append({**plain, "params": list(range(count, count + len(members)))})
            count += len(members)
        return groups

    @override
    def model_sharded_context(self) -> Any:
        return nullcontext()  # the model is built already, and shards when the engine takes it

    @override
    def teardown(self) -> None:
        engine = getattr(self.model, "destroy", None)
        if engine is not None:
            engine()
        super().teardown()


def _shape(parameter: nn.Parameter) -> torch.Size:
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _set_full(parameter: nn.Parameter, value: Tensor, key: str | None = None) -> None:
    """Put this rank's part of a whole tensor into the optimizer: of the fp32 parameter, or of its state `key`.

    Stage 3 goes through DeepSpeed's local calls: its whole ones fail where a parameter does not divide by the ranks.
    """
    from deepspeed import utils

    if not parameter.requires_grad:
        return
    if not hasattr(parameter, "ds_tensor"):
        if key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, key)
        return
    shard = _shard_of(value, parameter.ds_tensor.numel())
    if key is None:
        utils.safe_set_local_fp32_param(parameter, shard)
    else:
        utils.safe_set_local_optimizer_state(parameter, shard, key)


def _shard_of(value: Tensor, size: int) -> Tensor:
    """This rank's shard of `size` elements; the last shards are filled up with zeros."""
    start = size * distributed.get_rank()
    mine = value.flatten()[start : start + size]
    return torch.cat([mine, mine.new_zeros(size - len(mine))])


def _flat_partitions(zero: Any) -> list[Tensor]:
    """The flat fp32 tensors of this rank that the inner optimizer steps on."""
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        return list(zero.fp32_partitioned_groups_flat)
    return list(zero.single_partition_of_fp32_groups)


def _any_state(inner: Optimizer) -> dict[str, Any]:
    return next((dict(state) for state in inner.state.values() if state), {})


def _state_keys(inner: Optimizer) -> list[str]:
    """Of what has the shape of a parameter."""
    state = _any_state(inner)
    return [key for key, value in state.items() if value is not None and key not in _counters(state)]


def _counters(state: dict[str, Any]) -> dict[str, Any]:
    """Single numbers, such as Adam's step: one for a flat group."""
    return {
        key: value
        for key, value in state.items()
        if isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)
    }


def _state_names(module: nn.Module) -> list[str]:
    """Names in the order of `state_dict`, without asking parameters that are sharded for their values."""
    names: list[str] = []
    for prefix, part in module.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        names += [dot + name for name, value in part._parameters.items() if value is not None]
        names += [
            dot + name
            for name, value in part._buffers.items()
            if value is not None and name not in part._non_persistent_buffers_set
        ]
    return names


def _is_persistent(module: nn.Module, name: str) -> bool:
    owner, _, last = name.rpartition(".")
    return last not in module.get_submodule(owner)._non_persistent_buffers_set


@contextmanager
def _quiet_deepspeed() -> Iterator[None]:
    """DeepSpeed's loggers announce, and re-raise their level, while it sets itself up."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
