"""The parts of the table of run_all.py: each gives its rows, measured by the benchmark that has the part's name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

import adam
import bpe as training_bpe
import collectives as all_reduces
import context_parallel
import data_parallel
import expert_parallel
import generation as generating
import launching_beside
import notebook_times
import pipeline_parallel
import simulator as simulating
import speedup_on_two
import tensor_parallel
import training_step
import zero_parallel
from answering import importing, seconds
from racing import race
from run_all import Row, alone, beside

import llmlab as lab

TIED = speedup_on_two.model_of()
NOT_TIED = replace(TIED, tie_embeddings=False)
FSDP = "fully_shard"


def collectives(rounds: int) -> Iterator[Row]:
    """All-reduces through shared memory beside gloo and beside the copies they must make, and torch's DDP on both."""
    for ranks in (2, 4):
        run = lab.Processes(ranks, timeout_s=900, transport="shared").run(all_reduces.reduce_all, rounds, False)
        for nbytes, taken in run.results[0].items():
            what = f"all-reduce of {nbytes:,} bytes, {ranks} processes"
            shown = what if (ranks, nbytes) in ((2, 4 << 10), (2, 1 << 20), (2, 8 << 20), (4, 4 << 10)) else ""
            yield beside(what, taken["shared"], "gloo", taken["gloo"], processes=ranks, headline=shown)
            if ranks == 2:
                yield beside(what, taken["shared"], "its copies", taken["least"], processes=ranks)
    run = lab.Processes(2, timeout_s=900, transport="shared").run(all_reduces.step_ddp, rounds, False)
    for width, taken in run.results[0].items():
        what = f"torch's DDP on our backend, 8 layers of {width}"
        yield beside(what, taken["shared"], "gloo", taken["gloo"], processes=2, headline=what)


def modes(rounds: int) -> Iterator[Row]:
    """Each mode beside torch's own, then beside one process with one thread and with two."""
    yield from against_torch(rounds)
    run = lab.Processes(2, timeout_s=900).run(speedup_on_two.race, TIED, speedup_on_two.MODES, rounds, False)
    taken = run.results[0]
    for mode in (*speedup_on_two.MODES, speedup_on_two.APART):
        for alone_with in (speedup_on_two.ONE, speedup_on_two.TWO):
            shown = f"{mode} on 2 processes, {TIED.n_param / 1e6:.1f}M parameters"
            opponent = f"1 process, {alone_with}"
            yield beside(f"{mode}, a step", taken[mode], opponent, taken[alone_with], processes=2, headline=shown)


def against_torch(rounds: int) -> Iterator[Row]:
    """One step of ours and of torch's own on two processes, the same weights and batches."""
    races = {  # what runs, its arguments, and which of its ways are opponents
        "data": (data_parallel.race, (TIED, rounds), {"ours": "ddp"}),
        "ZeRO": (zero_parallel.race, (TIED, rounds), {"ours, stage 3": FSDP, "ours, stage 1": "ZeroRedundancy"}),
        "tensor": (tensor_parallel.race, (NOT_TIED, rounds), {"ours": "torch"}),
        "context": (context_parallel.race, (2048, 8, rounds), {"ours": "torch, all_to_all"}),
        "experts": (
            expert_parallel.race, (*expert_parallel.configs(), rounds), {expert_parallel.OURS: expert_parallel.THEIRS},
        ),
    }  # fmt: skip
    names = {
        "ddp": "DistributedDataParallel", "torch": "parallelize_module", "ZeroRedundancy": "ZeroRedundancyOptimizer",
        "torch, all_to_all": "torch's ring", expert_parallel.THEIRS: "torch's all_to_all_single",
    }  # fmt: skip
    for mode, (worker, arguments, pairs) in races.items():
        taken = lab.Processes(2, timeout_s=900).run(worker, *arguments).results[0]
        for ours, theirs in pairs.items():
            what, opponent = f"{mode}, a step, {ours}", names.get(theirs, theirs)
            yield beside(what, taken[ours], opponent, taken[theirs], processes=2, headline=f"{mode}, a step")
    eight = replace(NOT_TIED, n_layer=8)
    for name in pipeline_parallel.THEIRS:
        taken = lab.Processes(2, timeout_s=900).run(pipeline_parallel.race, eight, name, rounds).results[0]
        what, opponent = f"pipeline, {name}", "torch.distributed.pipelining"
        yield beside(what, taken["ours"], opponent, taken["torch"], processes=2, headline=what)


def training(rounds: int) -> Iterator[Row]:
    """A training step beside transformers and torch's modules, and AdamW alone beside torch's two."""
    for what, result in training_step.races(rounds).items():
        taken = result.wall
        for opponent in ("transformers", "torch's modules"):
            shown = what if "AdamW" in what else ""
            yield beside(what, taken["ours"], opponent, taken[opponent], headline=shown)
    taken = adam.update_all(adam.model_of(), rounds, first=False).wall
    for opponent in (adam.PLAIN, adam.FUSED):
        what = "AdamW, an update of 3.7M parameters"
        yield beside(what, taken[adam.OURS], opponent, taken[opponent], headline=what)


def generation(rounds: int) -> Iterator[Row]:
    """Cached greedy generation beside transformers."""
    for layers, width in ((2, 128), (4, 128), (4, 256)):
        ways, _ = generating.make_ways(layers, width, batch=1, new=64)
        taken = race({name: ways[name] for name in ("ours", "transformers")}, rounds).wall
        what = f"generation with a cache, {layers} layers of {width}"
        shown = what if layers == 4 else ""
        yield beside(what, taken["ours"], "transformers", taken["transformers"], headline=shown)


def bpe(rounds: int) -> Iterator[Row]:
    """Training a tokenizer beside the Rust of `tokenizers`, with as many threads as it takes."""
    for megabytes in (2, 5):
        taken = training_bpe.side_by_side(training_bpe.first_megabytes(megabytes), 8192, rounds).wall
        what = f"training BPE on {megabytes} MB, 8,192 tokens"
        yield beside(what, taken["ours"], "tokenizers (Rust)", taken["tokenizers"], headline=what)


def launching(rounds: int) -> Iterator[Row]:
    """From nothing to a first finished all-reduce."""
    taken = launching_beside.race_starts(2, rounds).wall
    what = "2 processes, to the first all-reduce and their end"
    for opponent in list(taken)[1:]:
        yield beside(what, taken["ours"], opponent, taken[opponent], processes=2, headline=what)
    if find_spec("ipyparallel") is None:
        print("ipyparallel is not installed: not measured")


def simulator(rounds: int) -> Iterator[Row]:
    """Programs on simulated ranks: seconds, and rank-operations a second where they are counted."""
    for name, (program, operations, most) in simulating.PROGRAMS.items():
        walls, _ = simulating.measured(program, min(rounds, most))
        values = [operations / wall for wall in walls] if operations else walls
        yield alone(name, values, "rank-operations/s" if operations else "s", headline=f"simulator: {name}")


def answering(rounds: int) -> Iterator[Row]:
    """Layouts predicted a second, and what importing takes."""
    import answering as answers

    model, layouts = answers.problem()
    taken = seconds(lambda: answers.predict_all(model, layouts), rounds)
    yield alone("layouts predicted", [len(layouts) / s for s in taken], "layouts/s", headline="predictor, one core")
    imports = {what: seconds(importing(what), rounds) for what in ("llmlab, torch", "torch")}
    yield beside("import llmlab", imports["llmlab, torch"], "import torch", imports["torch"], headline="import llmlab")


def notebooks(rounds: int) -> Iterator[Row]:
    """All cells of each notebook in a fresh kernel, once."""
    taken, threads = {}, os.cpu_count() or 1  # a kernel's torch takes all cores
    for path in notebook_times.every_notebook():
        taken[path.stem] = notebook_times.seconds(path)
        yield alone(f"notebook {path.stem}", [taken[path.stem]], "s", threads=threads)
    longest = max(taken, key=lambda name: taken[name])
    shown = f"the longest notebook, {longest}, on all cores"
    yield alone("the longest notebook", [taken[longest]], "s", threads=threads, headline=shown)
    every = f"all {len(taken)} notebooks, one after another"
    yield alone(every, [sum(taken.values())], "s", threads=threads, headline=f"{every}, on all cores")
