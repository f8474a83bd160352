"""Remove whole channels along Torch-Pruning's dependency graph (Fang et al. 2023), then fine-tune."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from scaledl.compress.attention import downstream, fused_heads, has_other_attention, settle_attention_
from scaledl.compress.groups import SCORES, Group, Removal
from scaledl.compress.library_groups import library_groups
from scaledl.compress.parts import ROOTS, hidden_groups
from scaledl.compress.prune_attention import attention_groups
from scaledl.compress.prune_recurrent import recurrent_groups
from scaledl.compress.ranking import select_global, select_uniform
from scaledl.compress.stage import StageContext, finetune, finetune_config, start_model
from scaledl.config.schema import AugmentConfig, PruneConfig
from scaledl.console import get_console
from scaledl.data import Batch
from scaledl.errors import UsageError
from scaledl.models.attention import head_counts, refresh_heads_
from scaledl.models.structure import EXTERNAL, Model, resize_change
from scaledl.runtime.signature import Inputs
from scaledl.tasks.base import Task
from scaledl.tasks.model import task_around

TAYLOR_BATCHES = 8
SELECT_FNS = {"uniform": select_uniform, "global": select_global}


@dataclass(frozen=True)
class PruningPlan:
    """What `execute_` will remove from the module it was made for.

    `chosen` holds groups of Torch-Pruning or our own, with the channels that go: layers of `module` that lose the same
    channels together. `skipped` counts the groups that stay whole.
    """

    module: nn.Module
    chosen: tuple[Any, ...]
    skipped: int

    def execute_(self) -> None:
        """Slice the tensors, in place."""
        for group in self.chosen:
            group.prune()
        refresh_heads_(self.module)
        settle_attention_(self.module)


def apply(model: Model, context: StageContext) -> Model:
    """Prune a copy of `model` as the stage says, then fine-tune it with the source run's model as teacher.

    Raises UsageError when nothing can be removed.
    """
    stage = context.stage
    assert isinstance(stage, PruneConfig), stage.method
    start = start_model(
        context.run,
        lambda: prune_model(model, stage, _batches(context), key=context.key, task_fn=partial(_task_of, context)),
        trust=context.trust,
    )
    return finetune(start, context, finetune_config(context, epochs_share=0.5, lr_share=0.5))


def prune_model(
    model: Model,
    stage: PruneConfig,
    batches: Iterator[Batch],
    *,
    key: str = "prune",
    task_fn: Callable[[nn.Module], Task] | None = None,
) -> Model:
    """A smaller copy of `model`, its change recorded in the structure.

    `batches` feed the importance "taylor", whose loss is that of the task which `task_fn` makes around a module.

    Channels of the classifier's outputs and of the input are never touched. Of other libraries' models that cannot be
    pruned as a whole the hidden widths are pruned (`scaledl.compress.parts`), and whole heads.
    """
    module = copy.deepcopy(model.module).eval().requires_grad_(True)
    if stage.importance == "taylor":
        assert task_fn is not None
        accumulate_gradients_(task_fn(module), batches)
    before = sum(p.numel() for p in module.parameters())
    inputs = model.structure.inputs
    if model.structure.family == EXTERNAL:
        module, plan = _pruned_as_can_be(module, inputs, stage, key)
    else:
        plan = _prune_(module, plan_pruning(module, inputs, stage), stage, key)
    module.zero_grad(set_to_none=True)
    after = sum(p.numel() for p in module.parameters())
    get_console().info(
        f"pruned {len(plan.chosen)} of {len(plan.chosen) + plan.skipped} groups of layers: "
        f"{before:,} -> {after:,} parameters"
        + (f"; {plan.skipped} stay whole (round_to={stage.round_to})" if plan.skipped else "")
    )
    return Model(module, model.structure.then(resize_change(model.structure, module)))


def _prune_(module: nn.Module, plan: PruningPlan, stage: PruneConfig, key: str) -> PruningPlan:
    if not plan.chosen:
        raise UsageError(f"{key}: nothing can be removed: {_why_nothing(module, plan, stage)}")
    plan.execute_()
    return plan


# What Torch-Pruning, or a model that has other sizes now, fails with.
_PRUNING_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError)


def _pruned_as_can_be(module: nn.Module, inputs: Inputs, stage: PruneConfig, key: str) -> tuple[nn.Module, PruningPlan]:
    """As a whole, where its attention is known and what is left still runs; else in its hidden widths."""
    if has_other_attention(module):
        return module, _prune_hidden_(module, inputs, stage, key, "it has attention of its own kind")
    original = _copy(module)
    try:
        plan = _prune_(module, plan_pruning(module, inputs, stage), stage, key)
        _run_once(module, inputs)
        return module, plan
    except _PRUNING_ERRORS as error:
        why = f"as a whole it cannot be pruned ({type(error).__name__}: {' '.join(str(error).split())[:100]})"
    return original, _prune_hidden_(original, inputs, stage, key, why)


def _copy(module: nn.Module) -> nn.Module:
    """With the gradients, which `copy.deepcopy` leaves behind."""
    copied = copy.deepcopy(module)
    for parameter, twin in zip(module.parameters(), copied.parameters(), strict=True):
        twin.grad = parameter.grad
    return copied


def _prune_hidden_(module: nn.Module, inputs: Inputs, stage: PruneConfig, key: str, why: str) -> PruningPlan:
    heads, mlps, kept = library_groups(module, inputs)
    known = {cut.module for group in (*heads, *mlps) for cut in group.cuts}
    found = hidden_groups(module, inputs.example(1), whole=not known)
    grouped = [(graph, group) for graph, group in found if not known & _layers(group)]
    if not grouped and not known:
        raise UsageError(f"{key}: nothing can be removed from this model: {why}, and no hidden width is found")
    stay = f"; heads stay: {kept}" if kept and has_other_attention(module) else ""
    get_console().info(f"{key}: only {'heads and ' if heads else ''}hidden widths are pruned: {why}{stay}")
    theirs, ours = _plan(module, grouped, stage), _plan_own(module, [*heads, *mlps], stage)
    plan = PruningPlan(module, (*theirs.chosen, *ours.chosen), theirs.skipped + ours.skipped)
    _prune_(module, plan, stage, key)
    _run_once(module, inputs)
    return plan


def _run_once(module: nn.Module, inputs: Inputs) -> None:
    with torch.no_grad():
        module(inputs.example(2))


def plan_pruning(module: nn.Module, inputs: Inputs, stage: PruneConfig) -> PruningPlan:
    """Group the layers, score their channels and choose which go. `module` is left as it is."""
    own = own_groups(module)
    if own:
        return _plan_own(module, own, stage)
    example = inputs.example(1)
    graph = _dependency_graph(module, example)
    kept = [classifier(module, example), *(module.get_submodule(name) for name in getattr(module, "keeps_outputs", ()))]
    fused = fused_heads(module)
    found = graph.get_all_groups(ignored_layers=kept, root_module_types=list(ROOTS))
    return _plan(module, [(graph, downstream(graph, group, fused)) for group in found], stage)


def _plan(module: nn.Module, grouped: Sequence[tuple[Any, Any]], stage: PruneConfig) -> PruningPlan:
    """Choose from pairs of a dependency graph and a group of it."""
    importance = IMPORTANCES[stage.importance]()
    heads = {**head_counts(module), **fused_heads(module)}
    scored = [
        (graph, group, score, parts)
        for graph, group in grouped
        if (score := _score(importance, group, parts := _parts(group, heads))) is not None
    ]
    indices = SELECT_FNS[stage.scope]([score for _, _, score, _ in scored], stage.ratio, stage.round_to)
    chosen = [
        graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, _expand(group, removed, parts))
        for (graph, group, _, parts), removed in zip(scored, indices, strict=True)
        if removed
    ]
    return PruningPlan(module, tuple(chosen), len(grouped) - len(chosen))


def _plan_own(module: nn.Module, groups: list[Group], stage: PruneConfig) -> PruningPlan:
    """Groups of the same width are ranked together: a unit and a whole attention head cannot be compared."""
    if stage.importance not in SCORES:
        return PruningPlan(module, (), len(groups))
    removed: dict[int, list[int]] = {}
    for width in {group.width for group in groups}:
        alike = [number for number, group in enumerate(groups) if group.width == width]
        scores = [SCORES[stage.importance](groups[number]) for number in alike]
        indices = SELECT_FNS[stage.scope](scores, stage.ratio, max(1, stage.round_to // width))
        removed.update(zip(alike, indices, strict=True))
    chosen = [Removal(group, removed[number]) for number, group in enumerate(groups) if removed[number]]
    return PruningPlan(module, tuple(chosen), len(groups) - len(chosen))


def classifier(module: nn.Module, example: Tensor) -> nn.Module:
    """The layer whose outputs are the model's: the last convolution or linear layer to run."""
    last: list[nn.Module] = []
    hooks = [
        child.register_forward_hook(lambda layer, *_: last.append(layer))
        for child in module.modules()
        if isinstance(child, ROOTS)
    ]
    try:
        with torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise UsageError(f"{type(module).__name__} has no convolution or linear layer to prune")
    return last[-1]


def accumulate_gradients_(task: Task, batches: Iterator[Batch]) -> None:
    """Gradients of the task's loss over some training batches, in eval mode, left in `.grad` for "taylor"."""
    task.eval().model.zero_grad()
    for batch, _ in zip(batches, range(TAYLOR_BATCHES), strict=False):
        task.step(batch.contiguous())["loss"].backward()
    for parameter in task.model.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def own_groups(module: nn.Module) -> list[Group]:
    """The groups of a model that we know ourselves; empty for one that is left to Torch-Pruning."""
    return [*recurrent_groups(module), *attention_groups(module)]


IMPORTANCES: dict[str, Callable[[], Callable[[Any], Tensor | None]]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": lambda: tp.importance.GroupTaylorImportance(),  # Molchanov et al. 2019
    "bn_scale": lambda: tp.importance.BNScaleImportance(),  # Liu et al. 2017
}


def _batches(context: StageContext) -> Iterator[Batch]:
    task, config = _task_of(context, nn.Identity()), context.config.data
    augment = config.augment if task.needs_augmentation else AugmentConfig()
    return iter(task.train_loader(context.data, config.batch_size, augment))


def _task_of(context: StageContext, module: nn.Module) -> Task:
    return task_around(module, context.config, context.data.spec)


def _dependency_graph(module: nn.Module, example: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tp.DependencyGraph().build_dependency(module, example_inputs=example)


def _score(importance: Callable[[Any], Tensor | None], group: Any, parts: int) -> Tensor | None:
    """Importance of each channel that can be chosen, [channels / parts]; averaged over the equal parts."""
    score = importance(group)
    if score is None:
        return None
    # scores are divided by their mean, which is 0 / 0 in a layer of zeros
    return score.detach().nan_to_num(0.0).view(parts, -1).mean(0)


def _parts(group: Any, heads: dict[nn.Module, int]) -> int:
    """Into how many equal parts grouped convolutions, norms and attention divide these channels."""
    layers = _layers(group)
    divided = [m.groups for m in layers if isinstance(m, nn.Conv2d) and 1 < m.groups < m.out_channels]
    divided += [m.num_groups for m in layers if isinstance(m, nn.GroupNorm)]
    return max([*divided, *(heads[layer] for layer in _outputs_of(group) if layer in heads)], default=1)


def _layers(group: Any) -> set[nn.Module]:
    return {dep.target.module for dep, _ in group}


def _outputs_of(group: Any) -> Iterator[nn.Module]:
    """The layers that lose outputs."""
    for dep, _ in group:
        if dep.handler.__name__ == "prune_out_channels":
            yield dep.target.module


def _expand(group: Any, indices: list[int], parts: int) -> list[int]:
    size = len(group[0].idxs) // parts
    return [part * size + index for part in range(parts) for index in indices]


def _why_nothing(module: nn.Module, plan: PruningPlan, stage: PruneConfig) -> str:
    if stage.importance == "bn_scale" and not any(
        isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules()
    ):
        return "importance 'bn_scale' needs BatchNorm layers and the model has none; choose magnitude or taylor"
    if not plan.skipped:
        return f"{type(module).__name__} has no layer besides the classifier"
    return (
        f"none of the {plan.skipped} groups of layers can lose channels at ratio={stage.ratio:g} and keep a multiple "
        f"of round_to={stage.round_to}; lower round_to or raise ratio"
    )
