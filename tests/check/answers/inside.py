"""Looking inside a model: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.inside import lens_logits, patched_stream, two_speeds, way_restored


def normed(x):
    return x / x.square().mean().sqrt()


def put(own, other, position):
    own = own.clone()
    own[position] = other[position]
    return own


def put_in_place(own, other, position):
    own[position] = other[position]
    return own


RIGHT = [
    (two_speeds, lambda s, prompt: (prompt / s[0], len(s[1:]) / sum(s[1:]))),
    (lens_logits, lambda x, gain, table: table @ (normed(x) * gain)),
    (patched_stream, put),
    (way_restored, lambda patched, clean, corrupt: (patched - corrupt) / (clean - corrupt)),
]
WRONG = [
    (two_speeds, lambda s, prompt: (prompt / s[0], len(s) / sum(s)), "is reading, not writing"),
    (two_speeds, lambda s, prompt: (prompt / s[0], len(s) / sum(s[1:])), "one token too many"),
    (two_speeds, lambda s, prompt: (prompt / sum(s), len(s[1:]) / sum(s[1:])), "before the first token"),
    (two_speeds, lambda s, prompt: (1 / s[0], len(s[1:]) / sum(s[1:])), "all of the prompt"),
    (two_speeds, lambda s, prompt: (s[0] / prompt, sum(s[1:]) / len(s[1:])), "seconds per token"),
    (two_speeds, lambda s, prompt: (1.0, 2.0), "the sum of their seconds"),
    (lens_logits, lambda x, gain, table: table @ x, "final norm is missing"),
    (lens_logits, lambda x, gain, table: table @ normed(x), "without its weight"),
    (lens_logits, lambda x, gain, table: table @ (x / x.norm() * gain), "divided by the length"),
    (lens_logits, lambda x, gain, table: (table @ (normed(x) * gain)).softmax(-1), "these are probabilities"),
    (lens_logits, lambda x, gain, table: table.sum(1), "times gain"),
    (patched_stream, lambda own, other, position: other, "only one position"),
    (patched_stream, lambda own, other, position: put(other, own, position), "the wrong way round"),
    (patched_stream, lambda own, other, position: put(own, own + other, position), "takes the place"),
    (
        patched_stream,
        lambda own, other, position: put(own.T, other.T, min(position, 2)).T,
        "one number of every position",
    ),
    (patched_stream, put_in_place, "own was changed"),
    (patched_stream, lambda own, other, position: own, "own.clone()"),
    (way_restored, lambda patched, clean, corrupt: patched / clean, "would not be 0"),
    (way_restored, lambda patched, clean, corrupt: (patched - corrupt) / clean, "from corrupt to clean"),
    (way_restored, lambda patched, clean, corrupt: (clean - patched) / (clean - corrupt), "still missing"),
    (way_restored, lambda patched, clean, corrupt: patched - corrupt, "not how much of the way"),
    (way_restored, lambda patched, clean, corrupt: 0.5, "(patched - corrupt)"),
]
