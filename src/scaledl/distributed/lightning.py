"""Lightning's strategies on ranks that are already together: plain, DDP, DeepSpeed ZeRO."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import distributed, nn
from torch._C._distributed_c10d import GradBucket
from typing_extensions import override

from scaledl.config import Config
from scaledl.distributed.gradients import SharedGradients
from scaledl.distributed.near import Near
from scaledl.distributed.ranks import Ranks
from scaledl.errors import require_extra


class RankEnvironment(LightningEnvironment):
    """What Lightning may know of the cluster: the processes are there, and so is their process group."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    @property
    @override
    def creates_processes_externally(self) -> bool:
        return True

    @override
    def world_size(self) -> int:
        return self.ranks.world_size

    @override
    def global_rank(self) -> int:
        return self.ranks.rank

    @override
    def local_rank(self) -> int:
        return self.ranks.spec.local_rank if self.ranks.spec else 0

    @override
    def node_rank(self) -> int:
        return self.ranks.spec.node_rank if self.ranks.spec else 0

    @override
    def set_world_size(self, size: int) -> None: ...

    @override
    def set_global_rank(self, rank: int) -> None: ...


def build_strategy(config: Config, ranks: Ranks, *, gpu: bool) -> Strategy | str:
    """The strategy that the config asks for on these ranks; `auto` is DDP where there are several."""
    if config.trainer.strategy == "deepspeed":
        return _deepspeed(config, ranks, gpu=gpu)
    if not ranks.several:
        return "auto"
    return ExactDDP(
        near=None if gpu else ranks.near,
        cluster_environment=RankEnvironment(ranks),
        process_group_backend=distributed.get_backend(),
        find_unused_parameters=config.transfer.thaws,  # what is frozen for now has no gradient
        timeout=timedelta(seconds=ranks.timeout_seconds),
    )


def _deepspeed(config: Config, ranks: Ranks, *, gpu: bool) -> Strategy:
    require_extra("deepspeed", "deepspeed")
    from scaledl.distributed.zero import build_zero_strategy

    return build_zero_strategy(config, RankEnvironment(ranks), ranks, gpu=gpu)


class ExactDDP(DDPStrategy):
    """DDP that sums gradients instead of averaging them: each rank's loss already is its share of the global mean.

    Saves a pass over all gradients, and weighs every sample the same when the shards are uneven. Ranks that share a
    machine sum through its memory, all others through DistributedDataParallel.
    """

    def __init__(self, near: Near | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._near = near
        self._gradients: SharedGradients | None = None
        self._accumulating = False

    @override
    def _setup_model(self, model: nn.Module) -> Any:
        if self._near is not None:
            trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
            private = _may_change_gradients(self.lightning_module)
            self._gradients = SharedGradients.create(self._near, trainable, list(model.buffers()), private=private)
            if self._gradients is not None:
                task: Any = self.lightning_module
                task.after_backward = self._sum_gradients
                return model
        # Spares a copy of all gradients. Those of convolutions are laid out otherwise, and the copy comes back.
        self._ddp_kwargs["gradient_as_bucket_view"] = all(parameter.ndim < 4 for parameter in model.parameters())
        return super()._setup_model(model)

    @override
    def _register_ddp_hooks(self) -> None:
        if isinstance(self.model, nn.parallel.DistributedDataParallel):
            self.model.register_comm_hook(None, sum_gradients)

    @contextmanager
    @override
    def block_backward_sync(self) -> Iterator[None]:
        self._accumulating = True
        try:
            with super().block_backward_sync():
                yield
        finally:
            self._accumulating = False

    def _sum_gradients(self) -> None:
        if self._gradients is not None and not self._accumulating:
            self._gradients.exchange()

    @override
    def teardown(self) -> None:
        if self._gradients is not None and self.model is not None:
            self.model.zero_grad(set_to_none=True)  # views on the shared memory keep all of it
            self._gradients = None
        super().teardown()


def _may_change_gradients(task: Any) -> bool:
    """Whether clipping, or a hook of the user's, may write to gradients before the optimizer reads them."""
    hooks = ("on_after_backward", "on_before_optimizer_step")
    hooked = any(
        getattr(type(part), hook) is not getattr(base, hook)
        for base, parts in ((pl.Callback, task.trainer.callbacks), (pl.LightningModule, [task]))
        for part in parts
        for hook in hooks
    )
    return bool(task.gradient_clip or task.gradient_clip_value) or hooked


def sum_gradients(state: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP communication hook: all-reduce SUM in place, overlapped with the rest of the backward pass."""
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])
