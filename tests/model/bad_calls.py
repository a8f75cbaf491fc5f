"""Wrong calls of model, optimizers, training, generation and scores, each with what it must be told.

`python -m tests.model.bad_calls` makes them all and prints what was said, as JSON: in a process of its own, because
pytest has the types of llmlab.model checked, and a user has not.
"""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import nn

import llmlab as lab
from llmlab.training import Trainer

CONFIG = lab.Config(13, 8, 2, 2, 16)
ids = torch.arange(12).reshape(2, 6)
other = nn.Linear(2, 2)
scores = lab.evaluate


def make_model():
    return lab.Transformer(CONFIG)


def classifier(per="text"):
    return lab.Classifier(lab.Transformer(replace(CONFIG, causal=False)), 2, per)


def some():
    return [nn.Parameter(torch.zeros(3))]


def sgd(parameters):
    return lab.optim.SGD(parameters, lr=0.1)


def trainer(**how):
    m = make_model()
    return Trainer(**{"model": m, "optimizer": sgd(m.parameters()), **how})


def generate(*args, **how):
    return lab.generate(make_model(), *args, **how)


CALLS = [
    (lambda: lab.Transformer("gpt2"), "Transformer wants config as a Config; got 'gpt2'"),
    (lambda: lab.Transformer({"vocab_size": 3}), "Transformer wants config as a Config; got {'vocab_size'"),
    (lambda: lab.Transformer(None), "Transformer wants config as a Config; got None"),
    (lambda: lab.Transformer(CONFIG, seed="a"), "Transformer wants seed as a whole number of at least 0; got 'a'"),
    (lambda: lab.Transformer(CONFIG, seed=1.5), "Transformer wants seed as a whole number of at least 0; got 1.5"),
    (lambda: lab.Transformer(CONFIG, seed=-1), "Transformer wants seed as a whole number of at least 0; got -1"),
    (lambda: make_model()(ids.float()), "token wants integers, got torch.float32"),
    (lambda: make_model()("abc"), "tokens want a tensor of whole numbers [B, T], got a str"),
    (lambda: make_model()([1, 2]), "tokens want a tensor of whole numbers [B, T], got a list"),
    (lambda: make_model()(ids[0]), "tokens want a tensor of whole numbers [B, T], got one of shape [6]"),
    (lambda: make_model()(ids[None]), "tokens want a tensor of whole numbers [B, T], got one of shape [1, 2, 6]"),
    (lambda: make_model()(ids - 20), "token wants numbers from 0 to 12, got -20 to -9"),
    (lambda: make_model()(torch.zeros(1, 20, dtype=torch.long)), "a sequence wants at most max_seq=16 tokens, got 20"),
    (
        lambda: make_model().loss(ids, ids, reduction="men"),
        "cross_entropy wants reduction as one of 'mean', 'sum', 'none'; got 'men'",
    ),
    (lambda: make_model().loss(ids, None), "targets want the shape of the tokens, (2, 6), got a NoneType"),
    (lambda: make_model().loss(ids, ids[:1]), "targets want the shape of the tokens, (2, 6), got (1, 6)"),
    (
        lambda: make_model().loss(ids, ids, None, torch.ones(3, 3)),
        "a mask wants [B or 1, heads or 1, 6, 6], got one of shape [3, 3]",
    ),
    (
        lambda: make_model().loss(ids, ids, torch.arange(3)),
        "positions want whole numbers [6] or [B, 6], got one of shape [3]",
    ),
    (
        lambda: make_model().loss(ids, ids, torch.arange(6.0)),
        "positions want whole numbers [6] or [B, 6], got one of shape [6]",
    ),
    (
        lambda: classifier().predict("What a film!"),
        "predict wants token ids [B, T], got text: 'What a film!'. A model reads numbers: make them with the tokenizer",
    ),
    (lambda: classifier().predict(["a", "b"]), "predict wants token ids [B, T], got text: 'a'. A model reads numbers"),
    (lambda: classifier()("a"), "Classifier wants token ids [B, T], got text: 'a'"),
    (lambda: classifier().predict([1, 2]), "predict wants tokens as a Tensor; got [1, 2]; write torch.tensor([ids])"),
    (lambda: classifier().predict(ids[0]), "predict wants tokens [B, T], one row per text, got shape (6,)"),
    (lambda: classifier().predict(ids, ids[0]), "predict wants a length per text, [2], got shape (6,)"),
    (lambda: lab.Classifier(make_model(), 2), "Classifier wants an encoder, whose tokens see both sides, got a model"),
    (lambda: lab.Classifier(other, 2), "Classifier wants encoder as a Transformer or a TextEncoder; got a Linear"),
    (lambda: classifier("word"), "Classifier wants per as one of 'text', 'token'; got 'word'"),
    (lambda: make_model().make_caches(-1), "make_caches wants batch as a whole number of at least 1; got -1"),
    (lambda: make_model().make_caches("2"), "make_caches wants batch as a whole number of at least 1; got '2'"),
    (lambda: make_model().make_caches(2, 0), "make_caches wants length as a whole number of at least 1; got 0"),
    (lambda: lab.optim.SGD(some(), lr="0.1"), "SGD wants lr as a number of at least 0; got '0.1'"),
    (lambda: lab.optim.SGD(some(), lr=float("nan")), "SGD wants lr as a number of at least 0; got nan"),
    (lambda: lab.optim.SGD(some(), lr=None), "SGD wants lr as a number of at least 0; got None"),
    (lambda: lab.optim.SGD([], lr=0.1), "SGD wants params as at least one parameter; got none"),
    (lambda: lab.optim.SGD(make_model(), lr=0.1), "SGD wants params as model.parameters(); got a Transformer"),
    (lambda: lab.optim.SGD("abc", lr=0.1), "SGD wants params as model.parameters(); got a str"),
    (lambda: lab.optim.SGD([1, 2], lr=0.1), "SGD wants params as a Tensor or a dict; got 1"),
    (lambda: lab.optim.SGD(some(), lr=0.1, momentum=-1), "SGD wants momentum as a number of at least 0; got -1"),
    (lambda: lab.optim.AdamW(some(), betas=0.9), "AdamW wants betas as a list of two numbers; got 0.9"),
    (lambda: lab.optim.AdamW(some(), betas=(0.9, 0.9, 0.9)), "AdamW wants betas as two numbers; got (0.9, 0.9, 0.9)"),
    (lambda: lab.optim.AdamW(some(), eps=-1), "AdamW wants eps as a number of at least 0; got -1"),
    (lambda: lab.optim.AdamW(some(), amsgrad="no"), "AdamW wants amsgrad as True or False; got 'no'"),
    (lambda: lab.optim.clip_grad_norm(some(), -1), "clip_grad_norm wants max_norm as a number above 0; got -1"),
    (
        lambda: lab.optim.clip_grad_norm(some(), float("nan")),
        "clip_grad_norm wants max_norm as a number above 0; got nan",
    ),
    (lambda: lab.optim.clip_grad_norm(some(), "1"), "clip_grad_norm wants max_norm as a number above 0; got '1'"),
    (
        lambda: lab.optim.clip_grad_norm(make_model(), 1),
        "clip_grad_norm wants params as a list of Tensors; got a Transformer",
    ),
    (lambda: lab.optim.clip_grad_norm([1], 1), "clip_grad_norm wants params as a Tensor; got 1"),
    (lambda: lab.optim.LossScaler(0), "LossScaler wants init_scale as a number above 0; got 0"),
    (lambda: lab.optim.LossScaler("x"), "LossScaler wants init_scale as a number above 0; got 'x'"),
    (lambda: lab.optim.cosine(0), "cosine wants steps as a whole number of at least 1; got 0"),
    (lambda: lab.optim.cosine("9"), "cosine wants steps as a whole number of at least 1; got '9'"),
    (lambda: lab.optim.cosine(9, -2), "cosine wants floor as a number of at least 0; got -2"),
    (lambda: lab.optim.warm_up(-1), "warm_up wants steps as a whole number of at least 0; got -1"),
    (lambda: lab.optim.warm_up(3, 0.1), "warm_up wants then as a function of (step); got 0.1"),
    (lambda: lab.optim.linear(2.5), "linear wants steps as a whole number of at least 1; got 2.5"),
    (
        lambda: lab.optim.LRScheduler("sgd", lab.optim.constant),
        "LRScheduler wants optimizer as an Optimizer; got 'sgd'",
    ),
    (lambda: lab.optim.LRScheduler(sgd(some()), 0.1), "LRScheduler wants factor as a function of (step); got 0.1"),
    (
        lambda: trainer(optimizer=sgd(other.parameters())),
        "Trainer wants an optimizer over this model's parameters, got one of which 2 of 2 are another's",
    ),
    (lambda: trainer(model="m"), "Trainer wants model as a Module; got 'm'"),
    (lambda: trainer(optimizer=0.1), "Trainer wants the optimizer as an Optimizer; got 0.1"),
    (lambda: trainer(optimizer=sgd), "Trainer wants the optimizer as an Optimizer; got a function"),
    (lambda: trainer(clip=-1), "Trainer wants clip (a norm, or None) as a number above 0; got -1"),
    (lambda: trainer(clip="1"), "Trainer wants clip (a norm, or None) as a number above 0; got '1'"),
    (lambda: trainer().fit(None), "fit wants batches, (tokens, targets) each; got a NoneType"),
    (lambda: trainer().fit(3), "fit wants batches, (tokens, targets) each; got a int"),
    (lambda: trainer().fit("abc"), "fit wants batches, (tokens, targets) each; got a str"),
    (
        lambda: trainer().fit([(ids, ids)], steps=2.5),
        "fit wants steps (or None, to go on while there are batches) as a whole number of at least 1; got 2.5",
    ),
    (
        lambda: trainer().fit([(ids, ids)], steps=-1),
        "fit wants steps (or None, to go on while there are batches) as a whole number of at least 1; got -1",
    ),
    (lambda: trainer().fit([]), "fit wants at least one batch, got none"),
    (lambda: trainer().step([]), "step wants a list of batches, (tokens, targets) each; got a list"),
    (lambda: trainer().step(ids), "step wants a list of batches, (tokens, targets) each; got a Tensor"),
    (lambda: trainer().load_state_dict({}), "load_state_dict wants what Trainer.state_dict gave, got keys "),
    (lambda: trainer().load_state_dict("x"), "load_state_dict wants what Trainer.state_dict gave, got a str"),
    (
        lambda: generate("abc"),
        "generate wants token ids: a list of integers, or a list of such lists, or an integer tensor [T] or [",
    ),
    (
        lambda: generate(ids.float()),
        "generate wants token ids: a list of integers, or a list of such lists, or an integer tensor [T] or [",
    ),
    (
        lambda: generate(None),
        "generate wants token ids: a list of integers, or a list of such lists, or an integer tensor [T] or [",
    ),
    (lambda: generate([]), "generate wants prompts of at least one token, got an empty one"),
    (lambda: lab.generate("m", ids), "generate wants model as a Module; got 'm'"),
    (lambda: lab.generate(None, ids), "generate wants model as a Module; got None"),
    (lambda: generate(ids, 2.5), "generate wants max_new_tokens as a whole number of at least 1; got 2.5"),
    (lambda: generate(ids, -1), "generate wants max_new_tokens as a whole number of at least 1; got -1"),
    (lambda: generate(ids, "3"), "generate wants max_new_tokens as a whole number of at least 1; got '3'"),
    (lambda: generate(ids, 3, -1.0), "generate wants temperature as a number of at least 0; got -1.0"),
    (lambda: generate(ids, 3, float("nan")), "generate wants temperature as a number of at least 0; got nan"),
    (lambda: generate(ids, 3, "hot"), "generate wants temperature as a number of at least 0; got 'hot'"),
    (
        lambda: generate(ids, 3, 1.0, 0),
        "generate wants top_k, tokens to draw from (None: all), as a whole number of at least 1; got 0",
    ),
    (
        lambda: generate(ids, 3, 1.0, 2.5),
        "generate wants top_k, tokens to draw from (None: all), as a whole number of at least 1; got 2.5",
    ),
    (
        lambda: generate(ids, 3, 1.0, None, 0.0),
        "generate wants top_p, a share (None: all), as a number above 0 and of at most 1; got 0.0",
    ),
    (
        lambda: generate(ids, 3, 1.0, None, 2),
        "generate wants top_p, a share (None: all), as a number above 0 and of at most 1; got 2",
    ),
    (lambda: generate(ids, 3, use_cache="no"), "generate wants use_cache as True or False; got 'no'"),
    (lambda: generate(ids, 3, 1.0, seed="a"), "generate wants seed as a whole number; got 'a'"),
    (lambda: generate(ids, 3, 1.0, seed=1.5), "generate wants seed as a whole number; got 1.5"),
    (lambda: generate(ids, 3, beams=0), "generate wants beams as a whole number of at least 1; got 0"),
    (lambda: generate(ids, 3, 1.0, beams=2), "beams look for the likeliest text and want temperature 0, got 1.0"),
    (lambda: generate(ids, 3, beams=2, length_penalty="x"), "generate wants length_penalty as a number; got 'x'"),
    (
        lambda: generate(ids, 3, end=99),
        "generate wants end, a token (None: none), as a whole number from 0 to 12; got 99",
    ),
    (
        lambda: generate(ids, 3, end="a"),
        "generate wants end, a token (None: none), as a whole number from 0 to 12; got 'a'",
    ),
    (
        lambda: generate(ids, 3, source=ids),
        "only an EncoderDecoder reads a source, got source= or source_mask= for a Transformer",
    ),
    (
        lambda: generate(ids, 3, source_mask=ids),
        "only an EncoderDecoder reads a source, got source= or source_mask= for a Transformer",
    ),
    (lambda: generate(ids, 30), "prompt and new tokens want at most max_seq=16 together, got 6 + 30"),
    (lambda: generate(ids + 20, 3), "token ids want 0 to 12, the model's vocabulary, got 20 to 31"),
    (lambda: lab.generate(other, ids), "generate wants a language model, which gives logits; got a Linear"),
    (lambda: scores.mean_loss("m", [(ids, ids)]), "mean_loss wants model as a Module; got 'm'"),
    (
        lambda: scores.mean_loss(make_model(), None),
        "mean_loss wants batches as a list of tensors (inputs ..., targets); got None",
    ),
    (lambda: scores.mean_loss(make_model(), []), "a score wants at least one target token, got none"),
    (lambda: scores.mean_loss(make_model(), ids), "batches want to be many of (inputs ..., targets), got tensors"),
    (
        lambda: scores.mean_loss(make_model(), (ids, ids)),
        "batches want to be many of (inputs ..., targets), got tensors",
    ),
    (
        lambda: scores.mean_loss(make_model(), [(ids, ids)], 3),
        "mean_loss wants forward as a function of (model, batch); got 3",
    ),
    (
        lambda: scores.perplexity(make_model(), [(ids,)]),
        "mean_loss wants (inputs ..., targets) in each batch, got one tensor only",
    ),
    (
        lambda: scores.accuracy(make_model(), "ab"),
        "predictions wants batches as a list of tensors (inputs ..., targets); got 'ab'",
    ),
    (
        lambda: scores.accuracy(make_model(), {"a": 1}),
        "predictions wants each batch as a list of tensors (inputs ..., targets); got 'a'",
    ),
    (
        lambda: scores.confusion(make_model(), [(ids, ids)], 0),
        "confusion wants n_class as a whole number of at least 1; got 0",
    ),
    (
        lambda: scores.confusion(make_model(), [(ids, ids)], "3"),
        "confusion wants n_class as a whole number of at least 1; got '3'",
    ),
    (lambda: scores.bleu("a b", "a b"), "bleu wants hypotheses as a list of values; got 'a b'"),
    (lambda: scores.bleu(["a"], ["a", "b"]), "bleu wants a list of hypotheses and as many references, got 1 and 2"),
    (lambda: scores.bleu([], []), "bleu wants a list of hypotheses and as many references, got 0 and 0"),
    (lambda: scores.bleu([1], [2]), "bleu wants the references of a text as a list of values; got 2"),
    (lambda: scores.bleu(["a b"], ["a b"], 0), "bleu wants tokenize as a function of (text); got 0"),
    (lambda: scores.bleu(None, ["a"]), "bleu wants hypotheses as a list of values; got None"),
    (lambda: scores.tokenize_13a(3), "tokenize_13a wants text as a str; got 3"),
    (
        lambda: scores.KneserNey("abc", 3),
        "KneserNey wants documents as a list of documents, each a list of token ids; got 'abc'",
    ),
    (lambda: scores.KneserNey([[1, 2, 3]], 0), "KneserNey wants vocab_size as a whole number of at least 1; got 0"),
    (lambda: scores.KneserNey([], 3), "an n-gram model wants documents of at least two tokens, got none"),
    (lambda: lab.describe("m"), "describe wants a model, or a step that has one, got str"),
    (lambda: lab.describe(make_model(), "m"), "describe wants before as a Module; got 'm'"),
    (lambda: lab.model.recompute(make_model(), "ful"), "recompute wants what as one of 'full', 'selective'; got 'ful'"),
    (lambda: lab.model.recompute("m"), "recompute wants model as a Transformer; got 'm'"),
    (lambda: lab.load_pretrained(3), "load_pretrained wants name as a str or a Path; got 3"),
]
SIZES = {"vocab_size": 13, "d_model": 8, "n_layer": 2, "n_head": 2, "max_seq": 16}
FIELDS = [
    ("vocab_size", 0), ("vocab_size", "13"), ("vocab_size", 13.0), ("n_layer", -1), ("n_head", True), ("max_seq", None),
    ("norm", "layernrom"), ("mlp", "gleu"), ("position", "rotray"), ("dropout", 1.0), ("dropout", "0.1"),
    ("dropout", float("nan")), ("norm_eps", 0), ("rotary_base", -1), ("balance_loss", -1), ("bias", "no"),
    ("causal", 1), ("tie_embeddings", None), ("dtype", "fp32"), ("dtype", torch.int8), ("n_expert", 2.5),
    ("label_smoothing", 2),
]  # fmt: skip
DEGREES = [
    ("dp", 0), ("dp", 1.5), ("dp", "2"), ("dp", True), ("tp", -1), ("zero", 5), ("zero", "3"), ("schedule", "zb"),
    ("microbatches", 0), ("microbatches", None), ("context", "rign"), ("sequence_parallel", "no"),
    ("virtual_stages", 0), ("ep", 0), ("cp", None),
]  # fmt: skip


CALLS += [(lambda each=each: lab.Config(**{**SIZES, **dict([each])}), f"Config wants {each[0]} ") for each in FIELDS]
CALLS += [(lambda each=each: lab.Layout(**dict([each])), f"Layout wants {each[0]} as ") for each in DEGREES]


def said(call):
    """What a call says; None if it is silent, and another kind of error's name and text."""
    try:
        call()
    except ValueError as error:
        return str(error).splitlines()[0]
    except Exception as error:
        return f"{type(error).__name__}, which is no ValueError: {error}"
    return None


if __name__ == "__main__":
    print(json.dumps([said(call) for call, _ in CALLS]))
