"""Wrong calls of each mode of parallelism, each with what it must be told.

`python -m tests.parallel.bad_calls` makes them all on two ranks, simulated and real, and prints what each rank was told
as JSON: in a process of its own, because pytest has the types of llmlab.model checked, and a user has not.
"""

from __future__ import annotations

import json

import torch
from torch import nn

import llmlab as lab
from llmlab.parallel.layout import Layout

CONFIG = lab.Config(13, 8, 2, 2, 16)
ids = torch.arange(12).reshape(2, 6)
other = nn.Linear(2, 2)


def make_model():
    return lab.Transformer(CONFIG)


def sgd(parameters):
    return lab.optim.SGD(parameters, lr=0.1)


def laid_out(world, model=None, make_optimizer=sgd, layout=None, **how):
    model, layout = model or make_model(), layout or Layout(dp=2)
    return lab.parallelize(model, make_optimizer, layout, world, **how)


def stepping(*batch):
    return lambda world: laid_out(world)(*batch)


def after(first, second):
    """One mode on a model after another."""

    def call(world):
        model = make_model()
        first(model, world)
        second(model, world)

    return call


def clipped_pipeline(world):
    pipeline = lab.pipeline_parallel(make_model(), world, microbatches=2)
    pipeline.forward_backward(ids, ids)
    torch.nn.utils.clip_grad_norm_(pipeline.model.parameters(), 1.0)


def sharded(model, world):
    return lab.zero(model, sgd, world, 1)


CALLS = [
    (lambda world: laid_out(world, model="gpt2"), "parallelize wants a plain Transformer, got str"),
    (lambda world: laid_out(world, layout={"dp": 2}), "parallelize wants layout as a Layout; got {'dp'"),
    (lambda world: laid_out(world, layout="dp=2"), "parallelize wants layout as a Layout; got 'dp=2'"),
    (
        lambda world: laid_out(world, make_optimizer=0.1),
        "parallelize wants make_optimizer as a function of (parameters); got 0.1",
    ),
    (
        lambda world: laid_out(world, make_optimizer=sgd(make_model().parameters())),
        "parallelize wants make_optimizer as a function of (parameters); got a SGD",
    ),
    (
        lambda world: laid_out(world, make_optimizer=lambda p: sgd(other.parameters())),
        "parallelize wants an optimizer over this model's parameters, got one of which 2 of 2 are another's",
    ),
    (
        lambda world: laid_out(world, make_optimizer=lambda p: None),
        "parallelize wants the optimizer as an Optimizer; got None",
    ),
    (
        lambda world: lab.parallelize(make_model(), sgd, Layout(dp=2), None),
        "parallelize wants world as a Group; got None",
    ),
    (lambda world: lab.parallelize(make_model(), sgd, Layout(dp=2), 2), "parallelize wants world as a Group; got 2"),
    (
        lambda world: (lambda m: (laid_out(world, model=m), laid_out(world, model=m)))(make_model()),
        "parallelize wants a model that nothing has laid out yet, got one that parallelize has",
    ),
    (lambda world: laid_out(world, layout=Layout(dp=4)), "dp=4 x tp=1 x pp=1 x cp=1 is 4 ranks, got a world of 2"),
    (
        lambda world: laid_out(world, clip=-1.0),
        "parallelize wants clip (a norm, or None) as a number above 0; got -1.0",
    ),
    (lambda world: laid_out(world, clip="1"), "parallelize wants clip (a norm, or None) as a number above 0; got '1'"),
    (
        lambda world: laid_out(world, precision="fp7"),
        "parallelize wants precision as one of None, 'bf16', 'fp16'; got 'fp7'",
    ),
    (stepping("a", "b"), "a batch wants tokens as a Tensor; got 'a'"),
    (stepping(ids[0], ids[0]), "a batch wants tokens and targets of one shape [B, T], got [6] and [6]"),
    (stepping(ids, ids[:, :3]), "a batch wants tokens and targets of one shape [B, T], got [2, 6] and [2, 3]"),
    (stepping(ids.float(), ids), "token wants integers, got torch.float32"),
    (stepping(ids.tolist(), ids.tolist()), "a batch wants tokens as a Tensor; got [["),
    (stepping(ids.numpy(), ids.numpy()), "a batch wants tokens as a Tensor; got a ndarray of shape (2, 6)"),
    (stepping(ids + 13, ids), "token wants numbers from 0 to 12, got 13 to 24"),
    (stepping(ids, ids + 13), "targets want numbers from 0 to 12, or -100 for one that does not count; got 13 to 24"),
    (stepping(ids, None), "a batch wants targets as a Tensor; got None"),
    (stepping(ids[:0], ids[:0]), "tokens and targets of one shape [B, T], got [0, 6] and [0, 6]"),
    (stepping(ids[:1], ids[:1]), "a batch of 1 does not split over dp=2 x microbatches=1; legal: batch = 2"),
    (
        stepping(torch.zeros(2, 40, dtype=torch.long), torch.zeros(2, 40, dtype=torch.long)),
        "a sequence wants at most max_seq=16 tokens, got 40",
    ),
    (stepping(ids, ids, None, torch.ones(2, 2)), "a mask wants shape [2 or 1, 1, 6, 6], got [2, 2]"),
    (lambda world: laid_out(world).evaluate([]), "a score wants at least one target token, got none"),
    (lambda world: laid_out(world).evaluate(ids), "batches want to be many of (inputs ..., targets), got tensors"),
    (
        lambda world: laid_out(world).evaluate("abc"),
        "mean_loss wants batches as a list of tensors (inputs ..., targets); got 'abc'",
    ),
    (
        lambda world: laid_out(world).generate("abc", 3),
        "generate wants token ids: a list of integers, or a list of such lists, or an integer tensor [T] or [",
    ),
    (
        lambda world: laid_out(world).generate(ids, -3),
        "generate wants max_new_tokens as a whole number of at least 1; got -3",
    ),
    (lambda world: lab.data_parallel("m", world), "data_parallel wants model as a Module; got 'm'"),
    (lambda world: lab.data_parallel(make_model(), None), "data_parallel wants group as a Group; got None"),
    (
        lambda world: lab.data_parallel(make_model(), world, bucket_mb=float("nan")),
        "data_parallel wants bucket_mb as a number of at least 0; got nan",
    ),
    (
        lambda world: (lambda m: (lab.data_parallel(m, world), lab.data_parallel(m, world)))(make_model()),
        "data_parallel wants a model that nothing has laid out yet, got one that data_parallel has",
    ),
    (
        lambda world: lab.data_parallel(make_model(), world, overlap="no"),
        "data_parallel wants overlap as True or False; got 'no'",
    ),
    (lambda world: lab.zero(make_model(), sgd, world, 4), "zero wants stage as a whole number from 1 to 3; got 4"),
    (lambda world: lab.zero(make_model(), sgd, world, "3"), "zero wants stage as a whole number from 1 to 3; got '3'"),
    (
        lambda world: lab.zero(make_model(), sgd(other.parameters()), world, 1),
        "zero wants make_optimizer as a function of (parameters); got a SGD",
    ),
    (
        lambda world: lab.zero(make_model(), lambda p: sgd(other.parameters()), world, 1),
        "zero wants an optimizer over this model's parameters, got one of which 2 of 2 are another's",
    ),
    (
        lambda world: (lambda m: (lab.zero(m, sgd, world, 1), lab.zero(m, sgd, world, 1)))(make_model()),
        "zero wants a model that nothing has laid out yet, got one that zero has",
    ),
    (lambda world: lab.zero(None, sgd, world, 1), "zero wants model as a Module; got None"),
    (lambda world: lab.tensor_parallel(nn.Linear(2, 2), world), "tensor_parallel wants a Transformer, got Linear"),
    (
        lambda world: lab.tensor_parallel(make_model(), world, sequence_parallel="no"),
        "tensor_parallel wants sequence_parallel as True or False; got 'no'",
    ),
    (
        lambda world: (lambda m: (lab.tensor_parallel(m, world), lab.tensor_parallel(m, world)))(make_model()),
        "tensor_parallel wants a model that is not split yet, got one that is",
    ),
    (
        lambda world: (lambda m: (lab.context_parallel(m, world), lab.context_parallel(m, world)))(make_model()),
        "context_parallel wants a model it has not split already, got SplitModel(cp=2)",
    ),
    (
        lambda world: lab.context_parallel(make_model(), world, "rng"),
        "context wants one of ring, contiguous, striped, ulysses; got 'rng'",
    ),
    (
        lambda world: (
            lambda m: (lab.context_parallel(m, world, "ulysses"), lab.context_parallel(m, world, "ulysses"))
        )(make_model()),
        "context_parallel wants a model it has not split already, got SplitModel(cp=2)",
    ),
    (
        lambda world: (lambda m: (lab.pipeline_parallel(m, world), lab.pipeline_parallel(m, world)))(make_model()),
        "pipeline_parallel wants a model it has not split already, got SplitModel(pp=2)",
    ),
    (
        lambda world: lab.pipeline_parallel(make_model(), world, schedule="1f2b"),
        "a schedule wants name as one of 'gpipe', '1f1b', 'interleaved', 'zb_h1'; got '1f2b'",
    ),
    (
        lambda world: lab.pipeline_parallel(make_model(), world, microbatches=0),
        "one_f_one_b wants microbatches as a whole number of at least 1; got 0",
    ),
    (
        lambda world: lab.pipeline_parallel(make_model(), world, microbatches="4"),
        "one_f_one_b wants microbatches as a whole number of at least 1; got '4'",
    ),
    (
        lambda world: lab.expert_parallel(make_model(), world),
        "expert parallelism wants a model with experts (Config's n_expert), got Transformer",
    ),
    (lambda world: lab.expert_parallel("x", world), "expert_parallel wants model as a Module; got 'x'"),
    (
        lambda world: lab.local_sgd(sgd(make_model().parameters()), world, every=0),
        "local_sgd wants every (steps between two averages) as a whole number of at least 1; got 0",
    ),
    (lambda world: lab.local_sgd("sgd", world, every=2), "local_sgd wants optimizer as an Optimizer; got 'sgd'"),
    (
        lambda world: lab.local_sgd(sgd(make_model().parameters()), world, every="2"),
        "local_sgd wants every (steps between two averages) as a whole number of at least 1; got '2'",
    ),
    (lambda world: lab.map_tasks(3, [1, 2], world), "map_tasks wants task as a function of (item); got 3"),
    (lambda world: lab.map_tasks(abs, 5, world), "map_tasks wants items as a list of items; got 5"),
    (lambda world: lab.map_tasks(abs, "abc", world), "map_tasks wants items as a list of items; got 'abc'"),
    (lambda world: lab.map_tasks(abs, None, world), "map_tasks wants items as a list of items; got None"),
    (lambda world: lab.parameter_server("m", sgd, world), "parameter_server wants model as a Module; got 'm'"),
    (
        lambda world: lab.parameter_server(make_model(), sgd, world, staleness=float("nan")),
        "parameter_server wants staleness (steps, or None) as a whole number of at least 0; got nan",
    ),
    (
        lambda world: lab.compress_gradients("x", world, lab.TopK(0.1)),
        "compress_gradients wants optimizer as an Optimizer; got 'x'",
    ),
    (
        lambda world: lab.compress_gradients(sgd(make_model().parameters()), world, 0.1),
        "compress_gradients wants a compressor such as TopK(0.01), got 0.1",
    ),
    (
        lambda world: lab.compress_gradients(sgd(make_model().parameters()), world, lab.TopK(0.1), "no"),
        "compress_gradients wants error_feedback as True or False; got 'no'",
    ),
    (
        lambda world: lab.diloco(sgd(make_model().parameters()), world, every=0),
        "diloco wants every (steps between two averages) as a whole number of at least 1; got 0",
    ),
    (
        lambda world: lab.diloco(sgd(make_model().parameters()), world, 2, 0.7),
        "diloco wants make_outer as a function of (parameters); got 0.7",
    ),
    (lambda world: lab.diloco(make_model(), world), "diloco wants optimizer as an Optimizer; got a Transformer"),
    (
        lambda world: lab.average_weights(make_model(), world),
        "average_weights wants parameters as a list of Parameters; got a Transformer",
    ),
    (
        lambda world: lab.average_weights(make_model().parameters(), world, -1),
        "a mean by examples wants n_examples as a number of at least 0; got -1",
    ),
    (
        lambda world: lab.average_weights(make_model().parameters(), world, float("nan")),
        "a mean by examples wants n_examples as a number of at least 0; got nan",
    ),
    (lambda world: lab.disagreement("m", world), "disagreement wants model as a Module; got 'm'"),
    (
        lambda world: laid_out(world, recompute="ful"),
        "parallelize wants recompute as one of 'none', 'selective', 'full'; got 'ful'",
    ),
    (lambda world: laid_out(world, scaler=65536.0), "parallelize wants scaler as a LossScaler; got 65536.0"),
    (
        lambda world: laid_out(world, split="11"),
        "parallelize wants split, the layers per pipeline stage, only with pp above 1; got '11'",
    ),
    (
        lambda world: laid_out(world, precision="fp16"),
        "precision='fp16' wants a scaler, or small gradients round to 0: scaler=LossScaler()",
    ),
    (lambda world: laid_out(world, bucket_mb="25"), "parallelize wants bucket_mb as a number of at least 0; got '25'"),
    (after(lab.data_parallel, lab.tensor_parallel), "tensor_parallel wants a model that nothing has laid out yet, got"),
    (after(lab.data_parallel, lab.pipeline_parallel), "pipeline_parallel wants a model that nothing has laid out yet"),
    (after(lab.data_parallel, sharded), "zero wants a model that nothing has laid out yet, got one that data_parallel"),
    (after(sharded, lab.tensor_parallel), "nothing has laid out yet, got one that zero has"),
    (after(sharded, lab.expert_parallel), "expert_parallel wants a model that nothing has laid out yet"),
    (clipped_pipeline, "wants the whole model's, got one pipeline stage's"),
]


def said(world, calls):
    """What each call says to this rank; None if it is silent."""
    return [_said(world, call) for call, _ in calls]


def _said(world, call):
    try:
        call(world)
    except ValueError as error:
        return str(error).splitlines()[0]
    return None


if __name__ == "__main__":
    engines = lab.Simulator(2, kernels=False), lab.Processes(2)
    print(json.dumps([engine.run(said, CALLS).results for engine in engines]))
