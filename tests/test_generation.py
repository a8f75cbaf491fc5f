"""Generation against the plain loop, brute force and the definitions; the cache and the padding change nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.generation import generate, probabilities
from llmlab.generation.sampling import draw
from llmlab.model import LSTM, Config, EncoderDecoder, Transformer, padding_mask

CONFIG = Config(
    vocab_size=17, d_model=16, n_layer=1, n_head=4, n_kv_head=2, max_seq=32, position="rotary", tie_embeddings=False,
    dtype=torch.float64,
)  # fmt: skip
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [16]]


def make(config=CONFIG, kind=Transformer, seed=3):
    """A model whose next token depends on all before it: with fresh weights it would say one token for ever."""
    model, generator = kind(config), torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.7, generator=generator)
    return model


def greedy_loop(model, prompt, steps):
    """The definition: read everything, append the likeliest, again."""
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids


# --- greedy, cached, padded -------------------------------------------------------------------------------------------


def test_greedy_appends_the_likeliest_token_again_and_again():
    model = make()
    expected = greedy_loop(model, PROMPTS[1], 20)
    assert generate(model, PROMPTS[1], 20).tolist() == expected
    assert len(set(expected[6:])) > 3  # the model does say different things


@pytest.mark.parametrize(
    ("position", "choice"),
    [
        ("learned", {}),
        ("learned", {"temperature": 1.0}),
        ("rotary", {"temperature": 1.5, "top_k": 5, "top_p": 0.8}),
        ("rotary", {"beams": 3}),
        ("sinusoidal", {}),
        ("none", {"beams": 2}),
    ],
    ids=str,
)
def test_cached_and_padded_texts_equal_plain_ones(position, choice):
    model = make(replace(CONFIG, position=position))
    plain = [generate(model, p, 8, use_cache=False, seed=5 + i, **choice) for i, p in enumerate(PROMPTS)]
    alone = [generate(model, p, 8, seed=5 + i, **choice) for i, p in enumerate(PROMPTS)]
    together = generate(model, PROMPTS, 8, seed=5, **choice)
    uncached = generate(model, PROMPTS, 8, seed=5, use_cache=False, **choice)
    for texts in (alone, together, uncached):
        assert [t.tolist() for t in texts] == [t.tolist() for t in plain]
    assert [t.tolist()[: len(p)] for t, p in zip(together, PROMPTS, strict=True)] == PROMPTS


def test_the_answer_has_the_form_of_the_prompt():
    model = make()
    one = generate(model, PROMPTS[0], 4)
    assert one.shape == (7,) and torch.equal(generate(model, torch.tensor(PROMPTS[0]), 4), one)
    rows = generate(model, torch.tensor([PROMPTS[0], PROMPTS[0]]), 4)
    assert rows.shape == (2, 7) and torch.equal(rows[1], one)
    listed = generate(model, [torch.tensor(PROMPTS[0]), [16]], 4)
    assert torch.equal(listed[0], one) and listed[1].shape == (5,)


def test_generation_leaves_mode_random_state_and_autograd_alone():
    model = make(replace(CONFIG, dropout=0.5)).train()
    state = torch.get_rng_state()
    out = generate(model, [PROMPTS[0]], 5, temperature=1.0)[0]
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generate(model.eval(), [PROMPTS[0]], 5, temperature=1.0)[0], out)
    model.loss(out[None, :-1], out[None, 1:]).backward()  # what was generated can be trained on


# --- drawing ----------------------------------------------------------------------------------------------------------


def by_definition(logits, temperature, top_k, top_p):
    """Keep tokens in order of probability until top_k or top_p says stop."""
    p = (torch.tensor(logits, dtype=torch.float64) / temperature).softmax(0)
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[:top_k]
    p = {i: p[i].item() / sum(p[j].item() for j in order) for i in order}
    kept, total = {}, 0.0
    for i in order:
        if total >= top_p:
            break
        kept[i], total = p[i], total + p[i]
    return [kept.get(i, 0.0) / total for i in range(len(logits))]


@settings(max_examples=40)
@given(
    st.lists(st.integers(-60, 60), min_size=1, max_size=12, unique=True),
    st.floats(0.1, 5),
    st.integers(1, 14),
    st.floats(0.05, 0.999),
)
def test_temperature_top_k_and_top_p_are_their_definitions(tenths, temperature, top_k, top_p):
    logits = [value / 10 for value in tenths]
    ours = probabilities(torch.tensor(logits, dtype=torch.float64), temperature, top_k, top_p)
    assert ours.tolist() == pytest.approx(by_definition(logits, temperature, top_k, top_p), abs=1e-12)


def test_extreme_choices_end_at_the_likeliest_token_or_change_nothing():
    logits = torch.randn(5, 9)
    likeliest = torch.nn.functional.one_hot(logits.argmax(-1), 9).float()
    for choice in ({"temperature": 1e-42}, {"top_k": 1}, {"top_p": 1e-9}):
        assert torch.equal(probabilities(logits, **choice), likeliest)
    assert torch.equal(probabilities(logits, top_k=9, top_p=1.0), logits.softmax(-1))
    assert probabilities(logits.bfloat16()).dtype == torch.float32


def test_a_draw_takes_each_token_as_often_as_its_probability_says():
    p = torch.tensor([0.0, 0.125, 0.5, 0.0, 0.375, 0.0])
    u = (torch.arange(1000) + 0.5) / 1000  # evenly over [0, 1)
    assert torch.bincount(draw(p.expand(1000, 6), u), minlength=6).tolist() == [0, 125, 500, 0, 375, 0]
    assert draw(p[None], torch.tensor([0.0])).item() == 1 and draw(p[None], torch.tensor([1 - 2**-24])).item() == 4


def test_a_seed_decides_the_text_and_top_k_of_one_is_greedy():
    model = make()
    first, again, other = (generate(model, PROMPTS[0], 20, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(generate(model, PROMPTS[0], 20, temperature=2.0, top_k=1), generate(model, PROMPTS[0], 20))


# --- beams and ends ---------------------------------------------------------------------------------------------------


def log_p(model, prompt, new):
    """ln P of each of these continuations, all of one length."""
    ids = torch.tensor([[*prompt, *continuation] for continuation in new])
    logs = model(ids)[:, len(prompt) - 1 : -1].log_softmax(-1)
    return logs.gather(-1, torch.tensor(new)[..., None]).sum((1, 2)).tolist()


def likeliest(model, prompt, new, length_penalty=0.0):
    scores = [value / len(new[0]) ** length_penalty for value in log_p(model, prompt, new)]
    return max(zip(scores, new, strict=True))


def test_beams_as_many_as_texts_find_the_likeliest_of_all():
    model = make(replace(CONFIG, vocab_size=5), seed=1)
    prompts = [[1, 2], [4], [0, 3, 3]]
    found = generate(model, prompts, 3, beams=25)
    best = [list(likeliest(model, prompt, list(itertools.product(range(5), repeat=3)))[1]) for prompt in prompts]
    assert [t.tolist()[len(p) :] for t, p in zip(found, prompts, strict=True)] == best
    greedy = [generate(model, p, 3).tolist()[len(p) :] for p in prompts]
    assert greedy != best  # or beams would have nothing to find


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 3.0])
def test_texts_that_end_compete_with_longer_ones(length_penalty):
    model, end, prompt = make(replace(CONFIG, vocab_size=4)), 2, [1, 3]
    ended = []
    for n in (1, 2, 3):
        texts = [new for new in itertools.product(range(4), repeat=n) if end not in new[:-1]]
        ended.append(likeliest(model, prompt, [new for new in texts if n == 3 or new[-1] == end], length_penalty))
    found = generate(model, [prompt], 3, beams=40, end=end, length_penalty=length_penalty)[0]
    assert found.tolist()[2:] == list(max(ended)[1])


@pytest.mark.parametrize("choice", [{}, {"temperature": 1.0}, {"beams": 2}], ids=str)
def test_a_text_stops_after_its_end_while_others_go_on(choice):
    model = make()
    free = generate(model, PROMPTS, 12, seed=1, **choice) if "beams" not in choice else None
    end = 0 if free is None else int(free[0][5])
    listed = generate(model, PROMPTS, 12, seed=1, end=end, **choice)
    for text, prompt in zip(listed, PROMPTS, strict=True):
        new = text.tolist()[len(prompt) :]
        assert end not in new[:-1] and (len(new) == 12 or new[-1] == end)
    if free is not None:
        assert len(listed[0]) <= 6 and any(len(t) > 6 for t in listed)
        for cut, whole in zip(listed, free, strict=True):
            assert torch.equal(cut, whole[: len(cut)])


def test_rows_of_a_tensor_are_filled_up_with_the_end():
    model = make()
    prompts = torch.tensor([[1, 2], [7, 7], [9, 3]])
    free = generate(model, prompts, 12)
    end = int(free[0, 4])
    rows = generate(model, prompts, 12, end=end)
    stop = (rows[0, 2:] == end).nonzero()[0].item() + 2
    assert (rows[0, stop:] == end).all() and torch.equal(rows[0, : stop + 1], free[0, : stop + 1])


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", [{}, {"beams": 3}, {"temperature": 1.0}], ids=str)
def test_an_encoder_decoder_translates_padded_sources_as_it_does_each_alone(choice):
    model = make(replace(CONFIG, n_kv_head=4, position="sinusoidal"), EncoderDecoder)
    sources, lengths = torch.randint(0, 17, (3, 6)), torch.tensor([6, 2, 4])
    found = generate(
        model, torch.zeros(3, 1, dtype=torch.long), 8, source=sources, source_mask=padding_mask(lengths, 6), **choice
    )
    for i, n in enumerate(lengths.tolist()):
        alone = generate(model, [0], 8, source=sources[i : i + 1, :n], seed=i, **choice)
        assert torch.equal(found[i], alone)
    if not choice:
        ids = [0]
        for _ in range(8):
            ids.append(int(model(sources[:1], torch.tensor([ids]))[0, -1].argmax()))
        assert found[0].tolist() == ids


def test_an_lstm_generates_too_but_not_past_padding():
    model = make(replace(CONFIG, position="none", n_kv_head=4), LSTM)
    assert generate(model, PROMPTS[0], 10).tolist() == greedy_loop(model, PROMPTS[0], 10)
    with pytest.raises(ValueError, match="LSTM wants prompts of one length"):
        generate(model, PROMPTS, 10)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "at least one token, got an empty one"),
        ([[1], []], {}, "at least one token, got an empty one"),
        ([1.5, 2.0], {}, "wants token ids"),
        ([17], {}, "token ids want 0 to 16, the model's vocabulary, got 17 to 17"),
        ([3, -1], {}, "token ids want 0 to 16, the model's vocabulary, got -1 to 3"),
        ([1] * 30, {"max_new_tokens": 3}, r"at most max_seq=32 together, got 30 \+ 3"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens as a whole number of at least 1; got 0"),
        ([1], {"temperature": -1.0}, "temperature as a number of at least 0; got -1.0"),
        ([1], {"top_k": 0}, r"top_k, tokens to draw from \(None: all\), as a whole number of at least 1; got 0"),
        ([1], {"top_p": 0.0}, r"top_p, a share \(None: all\), as a number above 0 and of at most 1; got 0.0"),
        ([1], {"beams": 0}, "beams as a whole number of at least 1; got 0"),
        ([1], {"beams": 2, "temperature": 1.0}, "beams look for the likeliest text and want temperature 0, got 1.0"),
    ],
)
def test_what_cannot_be_generated_is_refused_at_the_door(prompt, options, message):
    model = make()
    model.blocks = None  # nothing runs
    with pytest.raises(ValueError, match=message):
        generate(model, prompt, **{"max_new_tokens": 2, **options})


def test_a_translation_wants_a_source_for_each_prompt():
    model = make(replace(CONFIG, n_kv_head=4), EncoderDecoder)
    with pytest.raises(ValueError, match="a source for each prompt, got none"):
        generate(model, [0], 2)
    with pytest.raises(ValueError, match="a source for each prompt, got 2 for 4"):
        generate(model, torch.zeros(4, 1, dtype=torch.long), 2, source=torch.ones(2, 3, dtype=torch.long))
