"""Every mode on one model: the layout says which, this file says in which order. Seams: all five.

The one right order: tensor and sequence (which slice parameters), context (which swaps attention), expert (which deals
out experts), pipeline (which drops the other stages' layers), then data or ZeRO, whose hooks must see the parameters as
the others left them, and last the recomputation of activations, around all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from llmlab.arguments import choice, function, instance, real
from llmlab.comm.group import Group
from llmlab.model import MoE, Transformer
from llmlab.model.recomputing import recompute as recompute_activations
from llmlab.optim import LossScaler, make_over
from llmlab.parallel.axes import Axes
from llmlab.parallel.context import context_parallel
from llmlab.parallel.expert import expert_parallel, global_balance
from llmlab.parallel.gathering import Gathering
from llmlab.parallel.layout import Layout
from llmlab.parallel.microbatches import Microbatch
from llmlab.parallel.part_gradients import make_plain
from llmlab.parallel.pipeline import Pipeline, pipeline_parallel
from llmlab.parallel.placement import check_not_laid_out, shard_of
from llmlab.parallel.replicas import Replicas
from llmlab.parallel.stages import Stage
from llmlab.parallel.step import Gradients, Step, accumulate
from llmlab.parallel.tensor import tensor_parallel
from llmlab.parallel.whole import SplitModel, refuse_state, use_as_whole
from llmlab.parallel.zero import ZeRO

PRECISIONS = {None: None, "bf16": torch.bfloat16, "fp16": torch.float16}
RECOMPUTE = ("none", "selective", "full")


def parallelize(
    model: Transformer,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    layout: Layout,
    world: Group,
    *,
    clip: float | None = None,
    precision: str | None = None,
    scaler: LossScaler | None = None,
    recompute: str = "none",
    split: Sequence[int] | None = None,
    bucket_mb: float = 25,
) -> Step:
    """Lay one training step of the model out over the world, in place: `loss = step(tokens, targets)`.

    Every rank gives the same model (same seed, same weights). The whole global batch goes in on every rank, its mean
    loss comes out on every rank, and the weights after the step are those of one process.

    make_optimizer: from parameters to any optimizer that updates each element by itself.  clip: the largest global
    gradient norm.  precision: None computes in the model's own dtype, "bf16" and "fp16" in 16 bits, with weights,
    gradients and sums in the model's own; fp16 wants a `scaler`.  recompute: "none", "selective" or "full".
    split: layers per pipeline stage.  bucket_mb: as in `data_parallel`.
    Raises ValueError, on every rank and before anything is sent, for what cannot be laid out so.
    """
    _check(model, make_optimizer, layout, world, clip, precision, scaler, recompute)
    real("parallelize", "bucket_mb", bucket_mb, least=0)
    if split is not None and layout.pp == 1:
        raise ValueError(f"parallelize wants split, the layers per pipeline stage, only with pp above 1; got {split!r}")
    axes, gathering = Axes.over(world, layout), Gathering(model, world)
    experts = {p for module in model.modules() if isinstance(module, MoE) for p in module.experts.parameters()}

    def group_of(parameter: nn.Parameter) -> Group:
        return axes.same_expert if layout.ep > 1 and parameter in experts else axes.data

    tensor_parallel(model, axes.tp, layout.sequence_parallel)
    context_parallel(model, axes.cp, layout.context)
    if model.config.n_expert:
        expert_parallel(global_balance(model, axes.data), axes.ep)
    pipeline = None
    if layout.pp > 1:
        pipeline = pipeline_parallel(model, axes.pp, layout.schedule, layout.microbatches, layout.virtual_stages, split)
    if not layout.zero:  # which places no more than its shards
        model.to(world.device)
    gathering.hold(model)
    make_plain(model.parameters())  # a step knows who holds which part
    vars(model)["layout"] = layout
    optimizer = make_over("parallelize", make_optimizer, model.parameters())
    table = None if pipeline is None else pipeline.shared_table
    gradients: Gradients
    if layout.zero:
        gradients = ZeRO(model, group_of, layout.zero, "sum", bucket_mb, apart=[] if table is None else [table])
    else:
        gradients = Replicas(model, group_of, bucket_mb)
    gradients.adopt(optimizer)
    model.place.part, model.place.parts = axes.dp.rank, layout.dp  # of each microbatch's rows
    if recompute != "none":
        recompute_activations(model, recompute)
    whole = model.whole if isinstance(model.whole, SplitModel) else SplitModel(model)
    whole = replace(whole, autocast=PRECISIONS[precision])
    if model.whole is not None:
        use_as_whole(model, whole)
    if layout.tp * layout.pp * layout.ep > 1:
        model.register_state_dict_pre_hook(refuse_state)
    return Step(
        model=model,
        whole=replace(whole, dp=axes.dp),
        optimizer=optimizer,
        layout=layout,
        axes=axes,
        gradients=gradients,
        run=_runner(model, pipeline, gradients, layout),
        gathering=gathering,
        pipeline=pipeline,
        copies={p: _copies(p, group_of(p), layout) * (1 + (p is table)) for p in gradients.owned},
        clip=clip,
        scaler=scaler,
        autocast=PRECISIONS[precision],
    )


def _runner(
    model: Transformer, pipeline: Pipeline | None, gradients: Gradients, layout: Layout
) -> Callable[[list[Microbatch], Tensor], Tensor]:
    """What takes all microbatches forward and backward: a pipeline's schedule, or one after the other."""
    if pipeline is None:  # with ZeRO 2 and 3 no whole gradient may outlive its microbatch
        stage = Stage(model, list(model.blocks), first=True, last=True)
        return partial(accumulate, stage, quiet=nullcontext if layout.zero >= 2 else gradients.no_sync)

    def run(batches: list[Microbatch], scale: Tensor) -> Tensor:
        with gradients.no_sync():  # the schedule says when a microbatch's gradients are complete
            return pipeline.run(batches, scale, gradients.reduce)

    return run


def _copies(parameter: nn.Parameter, data: Group, layout: Layout) -> int:
    """On how many ranks the optimizer owns the same element of this parameter."""
    return (1 if layout.zero else data.size) * (1 if shard_of(parameter) else layout.tp)


def _check(
    model: Transformer,
    make_optimizer: Callable[..., torch.optim.Optimizer],
    layout: Layout,
    world: Group,
    clip: float | None,
    precision: str | None,
    scaler: LossScaler | None,
    recompute: str,
) -> None:
    function("parallelize", "make_optimizer", make_optimizer, "parameters")
    instance("parallelize", "layout", layout, Layout, "lab.Layout(dp=2)")
    instance("parallelize", "world", world, Group, "the worker's first argument")
    if type(model) is not Transformer:
        raise ValueError(f"parallelize wants a plain Transformer, got {type(model).__name__}")
    if model.whole is not None or any(shard_of(parameter) for parameter in model.parameters()):
        raise ValueError("parallelize wants a model that holds all its weights, got one that is already split")
    check_not_laid_out("parallelize", model)
    layout.check_model(model.config, world.size)
    if clip is not None:
        real("parallelize", "clip (a norm, or None)", clip, above=0, infinite=True)
    if scaler is not None:
        instance("parallelize", "scaler", scaler, LossScaler, "lab.optim.LossScaler()")
    choice("parallelize", "precision", precision, PRECISIONS)
    choice("parallelize", "recompute", recompute, RECOMPUTE)
    if precision == "fp16" and scaler is None:
        raise ValueError("precision='fp16' wants a scaler, or small gradients round to 0: scaler=LossScaler()")
    if precision is not None and world.device.type == "meta":  # torch casts no tensors that hold no numbers
        raise ValueError(
            f"precision={precision!r} casts numbers, and numerics=False has none: "
            "give the model the dtype itself, Config(dtype=torch.bfloat16)"
        )
