"""Serving: right answers, and wrong ones with their hints."""

from __future__ import annotations

from math import ceil

from llmlab.check.serving import blocks_needed, decode_seconds, latencies, tokens_per_step, users_that_fit

RIGHT = [
    (blocks_needed, lambda prompt, new, block: ceil((prompt + new - 1) / block)),
    (users_that_fit, lambda memory, weights, each, tokens: max(0, (memory - weights) // (each * tokens))),
    (decode_seconds, lambda weights, each, users, rate: weights / rate + users * each / rate),
    (tokens_per_step, lambda keep, n: sum(keep**i for i in range(n + 1))),
    (latencies, lambda arrived, t: (t[0] - arrived, (t[-1] - t[0]) / (len(t) - 1), t[-1] - arrived)),
]
WRONG = [
    (blocks_needed, lambda prompt, new, block: ceil((prompt + new) / block), "never asked for"),
    (blocks_needed, lambda prompt, new, block: (prompt + new - 1) // block, "held whole"),
    (blocks_needed, lambda prompt, new, block: (prompt + new - 1) / block, "blocks are whole"),
    (blocks_needed, lambda prompt, new, block: ceil(prompt / block) + ceil((new - 1) / block), "where they meet"),
    (blocks_needed, lambda prompt, new, block: ceil(prompt / block), "the answer's tokens are held too"),
    (users_that_fit, lambda memory, weights, each, tokens: memory // (each * tokens), "the weights lie there too"),
    (users_that_fit, lambda m, weights, each, tokens: max(0, m - weights) / (each * tokens), "a user is whole"),
    (users_that_fit, lambda m, weights, each, tokens: (m - weights) // (each * tokens), "less than nobody"),
    (users_that_fit, lambda m, weights, each, tokens: max(0, m - weights) // each, "how many tokens fit"),
    (decode_seconds, lambda weights, each, users, rate: (weights + each) / rate, "each user's own cache"),
    (decode_seconds, lambda weights, each, users, rate: users * (weights + each) / rate, "once for all"),
    (decode_seconds, lambda weights, each, users, rate: weights / rate, "the caches are read too"),
    (decode_seconds, lambda w, each, users, rate: (w + users * each) / rate / users, "a step gives each a token"),
    (tokens_per_step, lambda keep, n: 1 + keep * n, "is lost with it"),
    (tokens_per_step, lambda keep, n: sum(keep**i for i in range(n + 1)) - 1, "in any case"),
    (tokens_per_step, lambda keep, n: sum(keep**i for i in range(n)), "one guess is missing"),
    (tokens_per_step, lambda keep, n: n + 1, "when all guesses hold"),
    (latencies, lambda a, t: (t[0] - a, (t[-1] - t[0]) / len(t), t[-1] - a), "n - 1 gaps"),
    (latencies, lambda a, t: (t[0] - a, (t[-1] - a) / len(t), t[-1] - a), "leaves the first token out"),
    (latencies, lambda a, t: (t[0], (t[-1] - t[0]) / (len(t) - 1), t[-1]), "when the request arrives"),
    (latencies, lambda a, t: (t[0] - a, (t[-1] - t[0]) / (len(t) - 1), t[-1] - t[0]), "to its last token"),
]
