"""Wrong calls at the package's doors: each is one ValueError that says the rule and what came, in our own words.

Rows are (call, rule and what came): the call is Python that is evaluated with the names below, and the pattern is
looked for in the error's text. `GROUP` is asked on both engines, which must answer alike.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import llmlab as lab
from llmlab import comm, cost, diagnosing, hardware, measuring, plot, text
from llmlab.comm import autograd, collectives
from llmlab.cost import compute_optimal, growing, kernels, scaling, simulated
from llmlab.cost.models import find_config, find_model
from llmlab.cost.planning import price_layout
from llmlab.hardware.power import watts
from llmlab.plot import budgets, gantts, growths, heatmaps, matrices, stacks, surfaces, tokens, validations
from llmlab.text import docstrings
from llmlab.text.chat import chat_prompt
from llmlab.text.wordpiece import WordPiece, basic_words

Row = tuple[str, str]
DOCUMENTS = ["the cat sat on the mat", "the dog sat on the log", "a bird sang in a tree"]
NAN, INF = float("nan"), float("inf")


def says_its_rank(world):
    with world.span("a part"):
        world.all_reduce(torch.ones(4, 4) @ torch.ones(4, 4))
    return world.rank


@cache
def found() -> SimpleNamespace:
    """What the calls are made on: a small one of each kind."""
    run = lab.Simulator(ranks=2).run(says_its_rank)
    row = lab.Measured("gpt2", lab.Layout(dp=2), 0.1, 8, 512)
    return SimpleNamespace(bpe=text.BPE.train(DOCUMENTS, 260), run=run, row=row)


ASKED: dict[str, Any] = {
    "np": np, "torch": torch, "lab": lab, "comm": comm, "cost": cost, "diagnosing": diagnosing, "hardware": hardware,
    "measuring": measuring, "plot": plot, "text": text, "autograd": autograd, "collectives": collectives,
    "compute_optimal": compute_optimal, "growing": growing, "kernels": kernels, "scaling": scaling,
    "simulated": simulated, "find_config": find_config, "find_model": find_model, "price_layout": price_layout,
    "watts": watts, "budgets": budgets, "gantts": gantts, "growths": growths, "heatmaps": heatmaps,
    "matrices": matrices,
    "stacks": stacks, "surfaces": surfaces, "tokens": tokens, "validations": validations, "docstrings": docstrings,
    "chat_prompt": chat_prompt, "WordPiece": WordPiece, "basic_words": basic_words, "replace": replace,
    "DOCUMENTS": DOCUMENTS, "NAN": NAN, "INF": INF, "worker": says_its_rank, "Path": Path,
}  # fmt: skip

TEXT: list[Row] = [
    ("text.BPE.train(DOCUMENTS, vocab_size=300.5)", "vocab_size as a whole number.*got 300.5"),
    ("text.BPE.train(DOCUMENTS, vocab_size='300')", "vocab_size as a whole number.*got '300'"),
    ("text.BPE.train(DOCUMENTS, vocab_size=None)", "vocab_size as a whole number.*got None"),
    ("text.BPE.train(DOCUMENTS, vocab_size=True)", "vocab_size as a whole number.*got True"),
    ("text.BPE.train(DOCUMENTS, vocab_size=-1)", "256 bytes.*got.*-1"),
    ("text.BPE.train('a document', 300)", "documents must be a list.*'a document'"),
    ("text.BPE.train([1, 2], 300)", "documents must be strings.*int"),
    ("text.BPE.train([], 300)", "text to learn from.*empty"),
    ("text.BPE.train(None, 300)", "documents must be a list, got None"),
    ("text.BPE.train(DOCUMENTS, 300, specials='<|end|>')", r"specials must be a list.*'<\|end\|>'"),
    ("text.BPE.train(DOCUMENTS, 300, specials=[3])", "specials.*string.*got 3"),
    ("text.BPE.train(DOCUMENTS, 300, specials=[''])", "specials.*empty"),
    ("text.BPE.train(DOCUMENTS, 300, specials=['<a>', '<a>'])", "specials must be different.*'<a>', '<a>'"),
    ("text.BPE.train(DOCUMENTS, 300, pattern='gtp2')", "pattern as one of.*'gtp2'; did you mean 'gpt2'"),
    ("text.BPE.train(DOCUMENTS, 300, pattern=['gpt2'])", r"pattern as one of.*got \['gpt2'\]"),
    ("text.BPE(bpe.vocab, bpe.merges, pattern='gtp2')", "pattern as one of.*'gtp2'; did you mean 'gpt2'"),
    ("text.BPE(bpe.vocab, bpe.merges, whole_pieces='no')", "whole_pieces as True or False; got 'no'"),
    ("text.BPE(bpe.vocab, bpe.merges, specials='<a>')", "specials as a .*; got '<a>'"),
    ("text.BPE('abc', [])", "vocab.*list.*'abc'"),
    ("text.BPE(['abc'], [])", "vocab.*bytes.*'abc'"),
    ("text.BPE(bpe.vocab, [b'ab'])", "merges.*pair.*b'ab'"),
    ("bpe.after(2.5)", "merges .*as a whole number from 0 to 4; got 2.5"),
    ("bpe.after('2')", "merges .*as a whole number.*got '2'"),
    ("bpe.after(-1)", "merges .*as a whole number from 0 to 4; got -1"),
    ("bpe.after(99)", "merges .*as a whole number from 0 to 4; got 99"),
    ("bpe.encode(None)", "text as a str or a bytes; got None"),
    ("bpe.encode(['a', 'b'])", r"text as a str or a bytes; got \['a', 'b'\]"),
    ("bpe.encode('a', specials='no')", "specials as True or False; got 'no'"),
    ("bpe.encode('a', specials=['<|end|>'])", "specials as True or False; got"),
    ("bpe.decode('abc')", "token ids must be a list.*'abc'"),
    ("bpe.decode([1.5])", "token ids must be integers.*float"),
    ("bpe.decode([-1])", r"token ids must be in 0\.\.259, got -1"),
    ("bpe.decode(None)", "token ids must be a list, got None"),
    ("text.clean(None)", "text as a string; got None"),
    ("text.clean(['a'])", r"text as a string; got \['a'\]"),
    ("text.clean('a', markup='no')", "markup as True or False; got 'no'"),
    ("text.CharTokenizer.train('abc')", "documents must be a list.*'abc'"),
    ("text.CharTokenizer.train(DOCUMENTS, vocab_size='9')", "vocab_size as a whole number.*got '9'"),
    ("text.CharTokenizer.train(DOCUMENTS, vocab_size=30.5)", "vocab_size as a whole number.*got 30.5"),
    ("text.CharTokenizer(None)", "characters.*list.*None"),
    ("text.CharTokenizer('abc').encode(None)", "text as a string; got None"),
    ("text.CharTokenizer('abc').encode('abd')", "characters of its corpus.*got 'd'"),
    ("text.WordTokenizer.train(DOCUMENTS, vocab_size=2.5)", "vocab_size .*as a whole number.*got 2.5"),
    ("text.WordTokenizer.train(DOCUMENTS, vocab_size=1)", "vocab_size.*got 1"),
    ("text.WordTokenizer.train(DOCUMENTS, cut='words')", "cut as a function of .text.; got 'words'"),
    ("text.WordTokenizer(['a'], cut=None)", "cut as a function of .text.; got None"),
    ("text.WordTokenizer(['a']).encode(7)", "text as a string; got 7"),
    ("text.words(None)", "text as a string; got None"),
    ("text.join_words('abc')", "words.*must be a list.*'abc'"),
    ("text.Segmenter(['a'])", r"counts as a Mapping; got \['a'\]; write \{word: count\}"),
    ("text.Segmenter({'a': 'b'})", "count.*whole number.*got 'b'"),
    ("text.Segmenter.train('abc')", "sentences must be a list.*'abc'"),
    ("text.Segmenter({'a': 1})(None)", "text as a string; got None"),
    ("text.load('pyhton')", "name as one of.*got 'pyhton'; did you mean 'python'"),
    ("text.load(['python'])", r"name as a string; got \['python'\]"),
    ("text.load('python', max_bytes='1e6')", "max_bytes as a whole number.*got '1e6'"),
    ("text.load('python', max_bytes=-5)", "max_bytes.*got -5"),
    ("text.labelled('python')", "labelled is one of.*got 'python'"),
    ("text.split('abc')", "documents must be a list.*'abc'"),
    ("text.split(DOCUMENTS, valid='0.1')", "valid, the share held out, as a number.*got '0.1'"),
    ("text.split(DOCUMENTS, valid=1.5)", "valid, the share held out, as a number.*got 1.5"),
    ("text.split(DOCUMENTS, valid=NAN)", "valid, the share held out, as a number.*got nan"),
    ("text.split(DOCUMENTS, seed=None)", "seed as a whole number; got None"),
    ("text.split(DOCUMENTS, key='source')", "key as a function of .document.; got 'source'"),
    ("text.deduplicate('abc')", "documents must be a list.*'abc'"),
    ("text.deduplicate(DOCUMENTS, near='0.8')", "near as a number.*got '0.8'"),
    ("text.deduplicate(DOCUMENTS, near=True)", "near as a number.*got True"),
    ("text.near_duplicates(DOCUMENTS, threshold=80)", "threshold as a number.*got 80"),
    ("text.shingles(None)", "text as a string; got None"),
    ("text.jaccard('abc', 'abd')", "a as a Set; got 'abc'; what shingles"),
    ("text.minhash('abc')", "shingled as a Set; got 'abc'; what shingles"),
    ("text.pack([[1, 2, 3]], 2.5)", "seq .*as a whole number.*got 2.5"),
    ("text.pack([[1, 2, 3]], '2')", "seq .*as a whole number.*got '2'"),
    ("text.pack([[1, 2, 3]], True)", "seq .*as a whole number.*got True"),
    ("text.pack([[1, 2, 3]], 3)", "seq .*as a whole number from 1 to 2; got 3"),
    ("text.pack('abc', 2)", "token ids must be integers.*'abc'"),
    ("text.pack([1.5, 2.5, 3.5], 2)", "token ids must be integers.*float"),
    ("text.pack([[1, 2, 3]], 2, end='<a>')", "end as a whole number.*got '<a>'"),
    ("text.pack(None, 2)", "token ids must be a list.*None"),
    ("text.batches([[1, 2, 3]] * 9, batch=2.5)", "batch as a whole number.*got 2.5"),
    ("text.batches([[1, 2, 3]] * 9, batch=0)", "batch as a whole number.*got 0"),
    ("text.batches([[1, 2, 3]] * 9, 1, 4, seed='a')", "seed as a whole number.*got 'a'"),
    ("text.batches([[1, 2, 3]] * 9, 1, 4, start=-1)", "start as a whole number.*got -1"),
    ("text.batches([[1, 2, 3]] * 9, 1, 4, epochs=0)", "epochs as a whole number.*got 0"),
    ("text.batches([[1, 2, 3]] * 9, 1, 4, drop_last='no')", "drop_last as True or False; got 'no'"),
    ("text.faults(None)", "text as a string; got None"),
    ("text.faults('a b', limits={'words': (1, 2)})", "limits as a Limits; got {'words'"),
    ("text.faults('a b', cut='words')", "cut as a function of .text.; got 'words'"),
    ("text.Limits(words=5)", "words as a list of numbers; got 5"),
    ("text.Limits(symbols='0.1')", "symbols as a number.*got '0.1'"),
    ("text.content_words('a b')", "found must be a list.*'a b'"),
    ("text.content_words(['a'], 'english')", "language as one of.*got 'english'"),
    ("text.fetch('shakespear')", "one of.*got 'shakespear'; did you mean 'shakespeare'"),
    ("text.Archive(7)", "source as .*got 7"),
    ("docstrings.docstrings(7)", "folder as .*got 7"),
    ("chat_prompt('smollm2', 'Hi')", "tokenizer as a BPE or a SentencePiece; got 'smollm2'"),
    ("chat_prompt(None, 'Hi')", "tokenizer as a BPE or a SentencePiece; got None"),
    ("basic_words(None)", "text as a string; got None"),
    ("WordPiece(['[UNK]', '[CLS]', '[SEP]', '[PAD]']).batch(['a'], max_seq=2.5)", "max_seq .*as a whole.*got 2.5"),
    ("WordPiece(['[UNK]', '[CLS]', '[SEP]', '[PAD]'], lower='no')", "lower as True or False; got 'no'"),
    ("text.SentencePiece('abc', {})", "pieces must be a list.*'abc'"),
]  # fmt: skip

HARDWARE: list[Row] = [
    ("hardware.Link('a', -1e-6, 1e9)", "latency_s as a number of at least 0; got -1e-06"),
    ("hardware.Link('a', NAN, 1e9)", "latency_s as a number.*got nan"),
    ("hardware.Link('a', 1e-6, 0)", "bytes_per_s as a number above 0; got 0"),
    ("hardware.Link('a', 1e-6, INF)", "bytes_per_s as a number.*got inf"),
    ("hardware.Link('a', 1e-6, 1e9, efficiency=1.5)", "efficiency as a number.*got 1.5"),
    ("hardware.Link('a', 1e-6, 1e9).seconds(-1)", "nbytes as a number of at least 0; got -1"),
    ("hardware.Link('a', 1e-6, 1e9).seconds('1')", "nbytes as a number.*got '1'"),
    ("hardware.cluster('h1000')", "one of.*got 'h1000'; did you mean 'h100'"),
    ("hardware.cluster(None)", "string; got None"),
    ("hardware.cluster('h100', devices_per_node=0)", "devices_per_node as a whole number.*got 0"),
    ("hardware.cluster('h100', devices_per_node=2.5)", "devices_per_node as a whole number.*got 2.5"),
    ("hardware.cluster('h100', inter=9)", "string; got 9"),
    ("hardware.cluster('h100', intra='')", "link is one of.*got ''"),
    ("hardware.cluster(hardware.device('h100'))", "got a Device"),
    ("hardware.device({'name': 'h100'})", "string; got {'name': 'h100'}"),
    ("hardware.device('h100').peak('bf61')", "dtype as one of.*'bf61'; did you mean 'bf16'"),
    ("hardware.device('h100').kernel_seconds('matmull', 1, 1, 'bf16')", "kind as one of.*did you mean 'matmul'"),
    ("hardware.device('h100').kernel_seconds('matmul', -1, 1, 'bf16')", "flops as a number.*got -1"),
    ("hardware.device('h100').kernel_seconds('memory', 1, NAN, 'bf16')", "nbytes as a number.*got nan"),
    ("replace(hardware.device('h100'), memory_bytes=1.5)", "memory_bytes as a whole number.*got 1.5"),
    ("replace(hardware.device('h100'), one_clock='no')", "one_clock as True or False; got 'no'"),
    ("replace(hardware.cluster('h100'), device='h100')", "device as a Device; got 'h100'"),
    ("replace(hardware.cluster('h100'), fictional='no')", "fictional as True or False; got 'no'"),
    ("replace(hardware.cluster('h100'), source=None)", "source as a string; got None"),
    ("hardware.cluster('h100').node(-1)", "rank as a whole number of at least 0; got -1"),
    ("hardware.cluster('h100').link(0, 1.5)", "whole number.*got 1.5"),
    ("hardware.link('ethernet-10g', sharers=0)", "sharers as a whole number.*got 0"),
    ("hardware.this_machine(refresh='yes')", "refresh as True or False; got 'yes'"),
    ("hardware.this_machine(say=None)", "say as a function.*got None"),
    ("watts('h100')", "device as a Device; got 'h100'"),
]  # fmt: skip

RUNNING: list[Row] = [
    ("lab.Simulator(ranks='2')", "ranks as a whole number.*got '2'"),
    ("lab.Simulator(ranks=2.0)", "ranks as a whole number.*got 2.0"),
    ("lab.Simulator(ranks=0)", "ranks as a whole number of at least 1; got 0"),
    ("lab.Simulator(2, cluster=5)", "string; got 5"),
    ("lab.Simulator(2, numerics='no')", "numerics as True or False; got 'no'"),
    ("lab.Simulator(2, fold='world', numerics=False)", r"fold as a list.*'world'"),
    ("lab.Simulator(2, jitter=-0.1)", "jitter as a number.*got -0.1"),
    ("lab.Simulator(2, speeds={5: 1.0})", "each rank of speeds.*got 5"),
    ("lab.Simulator(2, speeds=[1.0, 2.0])", "speeds as a Mapping.*got"),
    ("lab.Simulator(2, speeds={0: NAN})", "speed as a number above 0; got nan"),
    ("lab.Simulator(2, devices={0: 'h100'})", "device as a Device; got 'h100'"),
    ("lab.Simulator(2, out_of_memory='rais')", "one of.*did you mean 'raise'"),
    ("lab.Simulator(2).run('worker')", "worker as a function of .world, ....; got 'worker'"),
    ("lab.Simulator(2).run(None)", "worker as a function of .world, ....; got None"),
    ("lab.Processes(ranks=2.5)", "ranks as a whole number.*got 2.5"),
    ("lab.Processes(2, timeout_s='60')", "timeout_s as a number above 0; got '60'"),
    ("lab.Processes(2, timeout_s=-1)", "timeout_s as a number above 0; got -1"),
    ("lab.Processes(2, strict='no')", "strict as True or False; got 'no'"),
    ("lab.Processes(2, launch='frok')", "launch as one of.*did you mean 'fork'"),
    ("lab.Processes(2).run('worker')", "worker as a function of .world, ....; got 'worker'"),
    ("lab.Ray(ranks=0)", "ranks as a whole number of at least 1; got 0"),
    ("lab.Ray(2, cpus_per_rank=0.5)", "cpus_per_rank as a whole number.*got 0.5"),
    ("lab.Ray(2, timeout_s=0)", "timeout_s as a number above 0; got 0"),
    ("lab.Ray(2, address=6379)", "address as a str.*got 6379"),
    ("lab.Ray(2).run('worker')", "worker as a function of .world, ....; got 'worker'"),
    ("lab.Torchrun(ranks_per_machine=0)", "ranks_per_machine as a whole number.*got 0"),
    ("lab.Torchrun(addresses='127.0.0.1')", "addresses as a list.*'127.0.0.1'"),
    ("lab.Torchrun(port='29500')", "port as a whole number.*got '29500'"),
    ("lab.Mesh(2, dp=2)", "world as a Group; got 2"),
    ("lab.measure('worker', engine=lab.Simulator)", "worker as a function.*got 'worker'"),
    ("lab.measure(worker, engine=lab.Simulator(2))", "engine as a function.*got a Simulator"),
    ("lab.measure(worker, engine=lab.Simulator, ranks=4)", "ranks as a list.*got 4"),
    ("lab.measure(worker, engine=lab.Simulator, ranks='1,2')", "ranks as a list.*got '1,2'"),
    ("lab.measure(worker, engine=lab.Simulator, ranks=[1.5])", "ranks as a whole number.*got 1.5"),
    ("lab.measure(worker, engine=lab.Simulator, ranks=[])", r"ranks.*got \[\]"),
    ("lab.measure(worker, engine=lab.Simulator, repeats=0)", "repeats as a whole number.*got 0"),
    ("lab.measure(worker, engine=lab.Simulator, work='stong')", "work as one of.*did you mean 'strong'"),
    ("lab.measure(worker, engine=lab.Simulator, progress='no')", "progress as True or False; got 'no'"),
    ("lab.measure(worker, engine=lab.Simulator, seconds=1.0)", "seconds as a function.*got 1.0"),
    ("measuring.tabulate([run.trace])", "runs as a Run; got a Trace"),
    ("measuring.tabulate(run)", "runs as a list of Runs; got a Run"),
    ("measuring.tabulate([])", "no runs"),
    ("measuring.tabulate_seconds({1: -1.0}, clock='wall', hardware='a')", "seconds on 1 rank.*got -1.0"),
    ("measuring.tabulate_seconds([1.0], clock='wall', hardware='a')", r"seconds as \{ranks: seconds\}; got"),
    ("measuring.tabulate_seconds({1: 1.0}, clock='wal', hardware='a')", "clock as one of.*did you mean 'wall'"),
    ("measuring.tabulate_seconds({1: 1.0}, clock='wall', hardware=None)", "hardware as a string; got None"),
    ("measuring.Table([])", "rows.*no rows"),
    ("measuring.Table(None)", "rows as a list.*got None"),
    ("measuring.Table.from_csv(7)", "path as .*got 7"),
    ("lab.time_spent(run.trace)", "run as a Run; got a Trace"),
    ("lab.within(run, 7)", "name as a string; got 7"),
    ("lab.within(run, 'a prat')", "no span 'a prat'.*a part"),
    ("lab.between(run, 1.0, 0.5)", "start < stop.*1.0 and 0.5"),
    ("lab.between(run, '0', 1.0)", "start as a number.*got '0'"),
    ("lab.exposed_by_axis(None)", "run as a Run; got None"),
    ("lab.utilization(run, 1e9)", "spent as a TimeSpent; got a Run"),
    ("lab.time_spent(run).share('waitng')", "cause as one of.*did you mean 'waiting'"),
    ("run.trace.select(rnak=0)", "one of.*'rnak'; did you mean 'rank'"),
    ("run.trace.comm_bytes(op='all_reduse')", "op as one of.*did you mean 'all_reduce'"),
    ("run.trace.busy(0, stream='computer')", "stream as one of.*did you mean 'compute'"),
    ("run.trace.busy('0')", "rank as a whole number.*got '0'"),
    ("run.trace.to_chrome(7)", "path as .*got 7"),
    ("collectives.seconds('all_reduce', 'rign', 4, 1e6, 1e-6, 1e9)", "wants algorithm in ring.*got 'rign'"),
    ("collectives.seconds('all_reduce', 'ring', 0, 1e6, 1e-6, 1e9)", "size as a whole number.*got 0"),
    ("collectives.seconds('all_reduce', 'ring', 4, -1, 1e-6, 1e9)", "nbytes as a number.*got -1"),
    ("collectives.seconds('all_reduce', 'ring', 4, 1e6, -1e-6, 1e9)", "latency_s as a number.*got -1e-06"),
    ("collectives.seconds('all_reduce', 'ring', 4, 1e6, 1e-6, 0)", "bytes_per_s as a number above 0; got 0"),
    ("collectives.steps('all_reduce', 'ring', 2.5)", "size as a whole number.*got 2.5"),
    ("collectives.sent_bytes('all_reduce', 'ring', 9, 4, 8, 4)", "rank as a whole number from 0 to 3; got 9"),
    ("collectives.sent_bytes('all_reduce', 'ring', 0, 4, 8.5, 4)", "numel as .*got 8.5"),
    ("collectives.sent_bytes('all_reduce', 'ring', 0, 4, 8, 0)", "itemsize as a whole number.*got 0"),
]  # fmt: skip

BIG = "global_batch=8, seq=512"
COST: list[Row] = [
    (f"lab.predict(7, lab.Layout(), {BIG})", "config as a Config; got 7"),
    (f"lab.predict('gtp3-175b', lab.Layout(), {BIG})", "did you mean gpt3-175b"),
    (f"lab.predict('gpt2', {{'dp': 2}}, {BIG})", r"layout as a list of Layouts; got \{'dp': 2\}"),
    (f"lab.predict('gpt2', 2, {BIG})", "layout as a list of Layouts; got 2"),
    (f"lab.predict('gpt2', [], {BIG})", "layout.*one or more|layout.*got.*(none|\\[\\])"),
    ("lab.predict('gpt2', lab.Layout(), global_batch=8, seq=512.5)", "seq as a whole number.*got 512.5"),
    ("lab.predict('gpt2', lab.Layout(), global_batch=8, seq=0)", "seq as a whole number.*got 0"),
    ("lab.predict('gpt2', lab.Layout(), global_batch=True, seq=512)", "global_batch as a whole.*got True"),
    (f"lab.predict('gpt2', lab.Layout(), 'a1000', {BIG})", "did you mean 'a100'"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}, precision='bf61')", "precision as one.*did you mean 'bf16'"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}, recompute='ful')", "recompute as one.*did you mean 'full'"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}, recompute=None)", "recompute as a list.*got None"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}, stack='typicl')", "stack.*did you mean 'typical'"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}, stack=None)", "stack.*one of.*got None"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}, without='logits')", r"without as a list.*\['logits'\]"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}, without=['nothing'])", "without as one of.*'nothing'"),
    (f"lab.predict('gpt2', lab.Layout(), {BIG}).gpu_hours(-1e9)", "tokens as a number above 0; got -1000000000"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, memory_share=1.5)", "memory_share as a number.*got 1.5"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, memory_share=NAN)", "memory_share as a number.*got nan"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, tokens=-1e9)", "tokens as a number above 0; got -1000000000"),
    (f"lab.plan('gpt2', gpus=8.5, {BIG})", "gpus as a whole number.*got 8.5"),
    (f"lab.plan('gpt2', gpus='8', {BIG})", "gpus as a whole number.*got '8'"),
    ("lab.plan('gpt2', gpus=8, global_batch=8, seq=512.5)", "seq as a whole number.*got 512.5"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, zero=3)", "zero as a list.*got 3"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, zero=(4,))", "zero as one of.*got 4"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, schedules='1f1b')", r"schedules as a list.*\['1f1b'\]"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, limit=0)", "limit as a whole number.*got 0"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, prices=lab.Prices(pue=0.5))", "pue .*as a number of at least 1; got 0.5"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, prices=lab.Prices(per_gpu_hour=-1))", "per_gpu_hour as a number.*got -1"),
    (f"lab.plan('gpt2', gpus=8, {BIG}, prices={{'per_gpu_hour': 2}})", "prices as a Prices; got .*; write lab.Prices"),
    (f"price_layout('gpt2', {{'dp': 2}}, {BIG})", r"layout as a Layout; got \{'dp': 2\}"),
    (f"price_layout('gpt2', lab.Layout(), {BIG}, tokens=-1)", "tokens as a number above 0; got -1"),
    ("replace(row, seconds=NAN)", "seconds as a number above 0; got nan"),
    ("replace(row, seconds='0.1')", "seconds as a number above 0; got '0.1'"),
    ("replace(row, seq=512.5)", "seq as a whole number.*got 512.5"),
    ("replace(row, layout={'dp': 2})", r"layout as a Layout; got \{'dp': 2\}"),
    ("replace(row, config=7)", "config as a Config; got 7"),
    ("lab.calibrate('h100', [row, replace(row, seconds=NAN)])", "seconds as a number above 0; got nan"),
    ("lab.calibrate('h100', [0.1])", "rows as a Measured; got 0.1"),
    ("lab.calibrate('h100', [])", "calibrate wants rows.*got none"),
    ("lab.calibrate('h100', row, name=None)", "name as a string; got None"),
    ("lab.calibrate('h1000', row)", "did you mean 'h100'"),
    ("lab.Stack(matmul=0)", "matmul as a number above 0; got 0"),
    ("lab.Stack(host=-1)", "host as a number of at least 0; got -1"),
    ("lab.Stack(fused_attention='no')", "fused_attention as True or False; got 'no'"),
    ("lab.Stack(software='megatron')", "software as a Library; got 'megatron'"),
    ("find_config({'n_layer': 2})", "config as a Config; got {'n_layer': 2}"),
    ("find_config('')", "no published model is called ''"),
    ("find_model(None)", "name as a string; got None"),
    ("scaling.amdahl(-0.1, 4)", "serial_share as a number.*got -0.1"),
    ("scaling.amdahl('0.1', 4)", "serial_share as a number.*got '0.1'"),
    ("scaling.gustafson(0.1, 0)", "ranks as a number.*got 0"),
    ("scaling.fit_scaling(None)", "samples as a list.*got None"),
    ("scaling.fit_scaling([(1, 0, 1.0), (2, 1, 1.0)])", "ranks as a whole number.*got 0"),
    ("compute_optimal.affordable_flops(1, 1e12, 1.5)", "mfu as a number.*got 1.5"),
    ("kernels.layer_kernels('gpt2', 'a', 512)", "batch as a number.*got 'a'"),
    ("kernels.layer_kernels('gpt2', 8, 512.5)", "seq as a whole number.*got 512.5"),
    (f"growing.grow('gpt2', {{'dp': 1}}, {BIG})", r"replica as a Layout; got \{'dp': 1\}"),
    (f"growing.grow('gpt2', lab.Layout(), {BIG}, most='64')", "most as a whole number.*got '64'"),
    ("simulated.draw_case('a')", "seed as a whole number.*got 'a'"),
]  # fmt: skip

PLOT: list[Row] = [
    ("plot.losses([1.0, 2.0])", r"curves as \{name: losses\}; got"),
    ("plot.losses({'a': []})", "each with values.*'a'"),
    ("plot.losses({'a': 'abc'})", "list of numbers; got 'abc'"),
    ("plot.losses({'a': None})", "list of numbers; got None"),
    ("plot.losses({'a': [1.0]}, figure='mine')", "figure as a Picture.*got 'mine'"),
    ("plot.lines({'a': ([1, 2], [1])}, 'x', 'y')", "one length.*2, 1"),
    ("plot.lines({'a': 5}, 'x', 'y')", "x and y.*got 5"),
    ("plot.lines({'a': ([1], [1])}, None, 'y')", "xlabel as a string; got None"),
    ("plot.lines({'a': ([1], [1])}, 'x', 'y', clock='wal')", "clock as one of.*did you mean 'wall'"),
    ("plot.lines({'a': ([1], [1])}, 'x', 'y', log='no')", "log as True or False; got 'no'"),
    ("plot.lines({'a': ([1], [1])}, 'x', 'y', say_x='bytes')", "say_x as a function.*got 'bytes'"),
    ("plot.bars([1, 2], 'y')", r"values as \{name: value or values\}; got"),
    ("plot.bars({'a': 'b'}, 'y')", "number.*got 'b'|number.*got \\['b'\\]"),
    ("plot.bars({'a': 1}, 7)", "ylabel as a string; got 7"),
    ("plot.alpha_beta({'a': [(1, 2)]}, {'a': 'b'})", "fit.*got 'b'"),
    ("plot.alpha_beta({'a': [(1, 2)]}, {'a': (-1, 1)})", "alpha >= 0.*got -1"),
    ("plot.timeline([1, 2])", "trace as a Trace; got .1, 2.; give run, or run.trace"),
    ("plot.timeline(None)", "trace as a Trace; got None; give run, or run.trace"),
    ("plot.timeline_svg(run, until=-1)", "until as a number above 0; got -1"),
    ("plot.timeline_svg(run, play_s='3')", "play_s as a number.*got '3'"),
    ("plot.compare_timelines(run, None)", "trace as a Trace; got None; give run, or run.trace"),
    ("plot.compare_timelines(run, run, names='ab')", "names as a list.*'ab'"),
    ("plot.compare_timelines(run, run, names=['a'])", r"names.*two.*\['a'\]|names.*2.*\['a'\]"),
    ("plot.beside(run, run.trace)", "run as a Run; got a Trace"),
    ("run.held(9)", "rank"),
    ("plot.memory(run.trace)", "run as a Run; got a Trace"),
    ("plot.memory_card({'a': -1}, 10)", "a.* as a number of at least 0; got -1"),
    ("plot.memory_card({'a': 1}, 0)", "capacity as a number above 0; got 0"),
    ("plot.memory_card(5, 10)", "needed.*got 5"),
    ("plot.placement('all_reduse')", "op as one of.*did you mean 'all_reduce'"),
    ("plot.placement('broadcast', ranks=2, root=5)", "root as a whole number.*got 5"),
    ("plot.placement('broadcast', ranks='2')", "ranks as a whole number.*got '2'"),
    ("plot.prediction({'a': 1}, 'title')", "p as a Prediction; got {'a': 1}"),
    ("plot.roofline('h100')", "device as a Device; got 'h100'"),
    ("plot.roofline(hardware.device('h100'), kernels=5)", "kernels as a list.*got 5"),
    ("plot.roofline(hardware.device('h100'), dtype='bf61')", "dtype as one of.*did you mean 'bf16'"),
    ("plot.scaling([1])", r"curves as \{.*got \[1\]"),
    ("plot.schedule('1f1', 4, 8)", "did you mean '1f1b'"),
    ("plot.schedule('1f1b', 4, 0)", "microbatches as a whole number.*got 0"),
    ("plot.schedule('1f1b', '4', 8)", "(stages|ranks) as a whole number.*got '4'"),
    ("plot.schedule('1f1b', 4, 8, hop=-1)", "hop as a number of at least 0; got -1"),
    ("plot.speedup()", "tables of one kind.*got no table"),
    ("plot.speedup(run)", "runs on several numbers of ranks, got one Run: try"),
    ("plot.causes([1])", r"shares as \{.*got \[1\]"),
    ("plot.show('a.png')", "figure as a Figure; got 'a.png'"),
    ("plot.explore('draw', x=(1, 2))", "draw as a function.*got 'draw'"),
    ("plot.say_seconds('a')", "seconds as a number.*got 'a'"),
    ("plot.say_bytes(None)", "nbytes as a number.*got None"),
    ("heatmaps.grids([[1]])", r"panels as \{.*got \[\[1\]\]"),
    ("gantts.gantt([])", r"schedules as \{name: schedule\}; got \[\]"),
    ("growths.growth({1: 5})", "curve as a Prediction; got 5"),
    ("stacks.memory_bars({'a': {'b': -1}})", "a's b as a number of at least 0; got -1"),
    ("matrices.products({'a': (1, 2)})", "a as a Matrix; got 1"),
    ("tokens.token_boxes({'a': ['b']})", "a as a bytes; got 'b'"),
    ("surfaces.descent(5, {'a': [(0, 0)]}, ((0, 1), (0, 1)))", "surface as a function.*got 5"),
]  # fmt: skip

CHECKED = [row for rows in (TEXT, HARDWARE, RUNNING, COST, PLOT) for row in rows]

MISSPELT: list[Row] = [
    ("lab.simulater", "llmlab has no 'simulater'; did you mean 'Simulator'"),
    ("lab.Simulater", "llmlab has no 'Simulater'; did you mean 'Simulator'"),
    ("lab.tansor_parallel", "did you mean 'tensor_parallel'"),
    ("lab.Text", "did you mean 'text'"),
    ("lab.nothing_like_it_at_all", "llmlab has no 'nothing_like_it_at_all'$"),
]

GROUP: list[Row] = [
    ("world.all_reduce(x, op=None)", "op as one of 'sum'.*got None"),
    ("world.all_reduce(x, 'sun')", "op as one of 'sum'.*'sun'; did you mean 'sum'"),
    ("world.all_reduce([1.0, 2.0])", "all_reduce wants a tensor, got list"),
    ("world.all_reduce(2.0)", "all_reduce wants a tensor, got float"),
    ("world.all_reduce(None)", "all_reduce wants a tensor, got NoneType"),
    ("world.all_reduce(np.ones(2))", "all_reduce wants a tensor, got ndarray"),
    ("world.all_reduce(x, async_op='no')", "async_op as True or False; got 'no'"),
    ("world.all_reduce(x, algorithm='rign')", "wants algorithm in ring.*got 'rign'"),
    ("world.all_reduce(x, algorithm=7)", "got 7"),
    ("world.all_reduce_([1.0])", "all_reduce_ wants a tensor, got list"),
    ("world.reduce_scatter(x, op=None)", "op as one of.*got None"),
    ("world.reduce_scatter(torch.ones(3))", "split.*dimension 0.*must divide, got size 3"),
    ("world.reduce_scatter_tensor(torch.ones(3), x)", r"output of shape \(1,\).*got \(3,\)"),
    ("world.all_gather(torch.tensor(1.0))", "at least one dimension, got a scalar"),
    ("world.all_gather('x')", "all_gather wants a tensor, got str"),
    ("world.all_gather_into_tensor(x, x)", r"output of shape \(4,\).*got \(2,\)"),
    ("world.all_to_all(x)", r"one tensor per rank \(2\), got one tensor"),
    ("world.all_to_all([x])", r"one tensor per rank \(2\), got 1"),
    ("world.all_to_all([x, None])", "all_to_all wants a tensor, got NoneType"),
    ("world.broadcast(x, src=2)", "rank of the group as a whole number from 0 to 1; got 2"),
    ("world.broadcast(x, src=-1)", "rank of the group as a whole number from 0 to 1; got -1"),
    ("world.broadcast(x, src=0.5)", "rank of the group as a whole number.*got 0.5"),
    ("world.broadcast(x, src='0')", "rank of the group as a whole number.*got '0'"),
    ("world.broadcast(x, src=True)", "rank of the group as a whole number.*got True"),
    ("world.broadcast_(x, src=None)", "rank of the group as a whole number.*got None"),
    ("world.reduce(x, 0, op=None)", "op as one of.*got None"),
    ("world.reduce(x, 9)", "rank of the group as a whole number from 0 to 1; got 9"),
    ("world.gather(x, dst=None)", "rank of the group as a whole number.*got None"),
    ("world.scatter(x, src=5)", "rank of the group as a whole number from 0 to 1; got 5"),
    ("world.send(x, dst=world.rank)", "another rank, got this one"),
    ("world.send([1.0], dst=1 - world.rank)", "send wants a tensor, got list"),
    ("world.recv((2, 2), src=1 - world.rank)", "recv wants a tensor, got tuple"),
    ("world.recv(x, src='1')", "rank of the group as a whole number.*got '1'"),
    ("world.isend(x, dst=7)", "rank of the group as a whole number from 0 to 1; got 7"),
    ("world.irecv(x, src=-1)", "rank of the group as a whole number from 0 to 1; got -1"),
    ("world.barrier(async_op=1)", "async_op as True or False; got 1"),
    ("world.sleep(-1)", "seconds as a number of at least 0; got -1"),
    ("world.sleep('1')", "seconds as a number.*got '1'"),
    ("world.sleep(NAN)", "seconds as a number.*got nan"),
    ("world.span(7).__enter__()", "name as a string; got 7"),
    ("lab.Mesh(world, dp=2.0)", "dp as a whole number.*got 2.0"),
    ("lab.Mesh(world, dp=-2, tp=-1)", "dp as a whole number.*got -2"),
    ("lab.Mesh(world, dp=3)", "multiply to the world's 2 ranks, got dp=3"),
    ("lab.Mesh(world)", "axes with their sizes.*got none"),
    ("lab.Mesh(world, dp=2)['tp']", "Mesh has axes dp; got 'tp'"),
    ("lab.Mesh(world, dp=2)[0]", "Mesh has axes dp; got 0"),
    ("lab.Mesh(world, dp=2)[()]", "Mesh.*axes.*got none"),
    ("autograd.copy_to([1.0], world)", "copy_to wants x as a Tensor; got"),
    ("autograd.copy_to(x, 'tp')", "copy_to wants group as a Group; got 'tp'"),
    ("autograd.gather_from(x, world, dim=1)", "dim as a whole number from -1 to 0; got 1"),
    ("autograd.gather_from(x, world, dim=-2)", "dim as a whole number from -1 to 0; got -2"),
    ("autograd.scatter_to(x, world, dim=0.0)", "dim as a whole number.*got 0.0"),
    ("autograd.scatter_to(torch.ones(3), world)", "size 3 does not split"),
]  # fmt: skip


def names() -> dict[str, Any]:
    return {**ASKED, **vars(found())}


@pytest.mark.parametrize(("call", "pattern"), CHECKED, ids=[call for call, _ in CHECKED])
def test_a_wrong_call_says_the_rule_and_what_came(call: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){pattern}"):
        eval(call, names())


@pytest.mark.parametrize(("call", "pattern"), MISSPELT, ids=[call for call, _ in MISSPELT])
def test_a_misspelt_name_is_told_the_nearest_one(call: str, pattern: str) -> None:
    with pytest.raises(AttributeError, match=pattern):
        eval(call, {"lab": lab})


def refusals(world, calls):
    """What each call of the group raises: (kind, text). Nothing is sent, so no rank is left waiting."""
    known = {
        "world": world, "x": torch.ones(2), "torch": torch, "np": np, "lab": lab, "autograd": autograd, "NAN": NAN,
    }  # fmt: skip
    said = []
    for call in calls:
        try:
            eval(call, dict(known))
            said.append(("nothing", ""))
        except Exception as error:
            said.append((type(error).__name__, str(error)))
    return said


@cache
def on_the_simulator() -> list[list[tuple[str, str]]]:
    return lab.Simulator(ranks=2).run(refusals, [call for call, _ in GROUP]).results


@pytest.mark.parametrize("number", range(len(GROUP)), ids=[call for call, _ in GROUP])
def test_a_group_refuses_before_anything_is_sent(number: int) -> None:
    for said in on_the_simulator():
        kind, words = said[number]
        assert kind == "ValueError"
        assert re.search(GROUP[number][1], words), words


def test_processes_refuse_with_the_simulators_words() -> None:
    run = lab.Processes(ranks=2).run(refusals, [call for call, _ in GROUP])
    assert run.results == on_the_simulator()


@pytest.mark.parametrize(
    "call",
    [
        "text.BPE.train(tuple(DOCUMENTS), np.int64(260))",
        "text.BPE.train(iter(DOCUMENTS), 262, specials=('<a>',)).encode('<a>', specials=True)",
        "bpe.after(np.int64(2)).encode(b'ab')",
        "text.load('python', max_bytes=np.int64(10**6))",
        "text.batches(np.arange(64), batch=np.int64(2), seq=np.int32(8), seed=None, epochs=None)",
        "text.split(np.array(DOCUMENTS), valid=np.float64(0.5), seed=np.int64(1))",
        "docstrings.docstrings(Path(text.__file__).parent)",
        "docstrings.docstrings(str(Path(text.__file__).parent))",
        "lab.predict('gpt2', lab.Layout(), global_batch=np.int64(8), seq=np.int32(512))",
        "hardware.Link('a', np.float64(0), np.int64(10**9)).seconds(np.int64(5))",
        "lab.measure(worker, engine=lab.Simulator, ranks=np.array([1, 2]), progress=False)",
        "plot.losses({'a': np.ones(3), 'b': torch.ones(3)})",
        "collectives.seconds('all_reduce', 'ring', np.int64(4), np.float64(1e6), 0, 1e9)",
    ],
)
def test_numbers_and_lists_of_other_libraries_are_taken(call: str) -> None:
    eval(call, names())
