"""SmolLM2 and MiniLM themselves, where their packages (93 and 84 MB) are in the cache; else skipped, with a line."""

import json
from functools import cache
from pathlib import Path

import gguf
import pytest
import torch
import transformers as hf  # a name of it is imported when it is used: only where these tests run
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import Digits, Sequence

from llmlab.model.pretrained import MINILM, SMOLLM2, load_pretrained
from llmlab.text.chat import chat_prompt
from llmlab.text.fetching import CACHE, Archive

MIXED = "In 2024, it cost $1,234.56!  中文，¡olé! \n\tdef f(x): return x**2  # don't 🙂 ½ Ⅷ"
TEXTS = [
    "A cat sits on the mat.", "A kitten rests on a rug.", "Ünïcode, 中文 & naïve café", "Stock prices fell!", "a" * 101,
]  # fmt: skip


def cached(package):
    """Give the package's path, or skip: fetching takes minutes, and is done by calling `load_pretrained` once."""
    if not (CACHE / package.file).exists():
        pytest.skip(f"{package.file} is not in the cache: call load_pretrained once to fetch it")
    return CACHE / package.file


@pytest.fixture(scope="module")
def smollm2():
    cached(SMOLLM2)
    return load_pretrained("smollm2-135m")


@pytest.fixture(scope="module")
def their_smollm2(tmp_path_factory) -> Path:
    """The GGUF file on its own, as `transformers` wants it."""
    folder = tmp_path_factory.mktemp("gguf")
    with Archive(cached(SMOLLM2)) as archive:
        (folder / "model.gguf").write_bytes(archive.read("SmolLM2-135M-Instruct.Q4_1.gguf"))
    return folder


def test_smollm2_has_the_size_it_is_known_for(smollm2):
    model, tokenizer = smollm2
    assert model.config.n_param == 134_515_008 and tokenizer.vocab_size == 49_152 and model.tied


def test_smollm2_answers_a_question_the_same_with_and_without_cache(smollm2):
    model, tokenizer = smollm2
    prompt = chat_prompt(tokenizer, "What is the capital of France?")
    tokens, caches = torch.tensor([prompt]), model.make_caches(1, length=len(prompt) + 10)
    answer, end = [], tokenizer.specials["<|im_end|>"]
    with torch.no_grad():
        while (token := int(model(tokens, caches=caches)[0, -1].argmax())) != end and len(answer) < 10:
            answer.append(token)
            tokens = torch.tensor([[token]])
        at_once = model(torch.tensor([prompt + answer]))[0, len(prompt) - 1 :].argmax(-1)
    assert tokenizer.decode(answer) == "The capital of France is Paris."
    assert at_once.tolist() == [*answer, end]


def test_smollm2_logits_and_tokens_equal_transformers_own_reading_of_the_file(smollm2, their_smollm2, monkeypatch):
    for slow in ("GGUFReader", "get_tensor_name_map"):  # asked for 3 and 397 times: most of a minute
        monkeypatch.setattr(gguf, slow, cache(getattr(gguf, slow)))
    model, tokenizer = smollm2
    reference = hf.AutoTokenizer.from_pretrained(their_smollm2, gguf_file="model.gguf")
    # `transformers` passes over the file's tokenizer.ggml.pre = "smollm": each digit and other number on its own, first
    level = reference.backend_tokenizer.pre_tokenizer
    reference.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), level])
    ids = tokenizer.encode(MIXED)
    assert ids == reference.encode(MIXED, add_special_tokens=False) and tokenizer.decode(ids) == MIXED
    talk = [
        {"role": "user", "content": "Hi 12?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "?"},
    ]
    text = reference.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    assert chat_prompt(tokenizer, talk) == tokenizer.encode(text, specials=True)
    theirs = hf.AutoModelForCausalLM.from_pretrained(their_smollm2, gguf_file="model.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        ours, with_them = model(torch.tensor([ids])), theirs(torch.tensor([ids])).logits
    # fp32, 61 sums of up to 1536 numbers one after the other; the logits reach about 30
    print(f"off by {(ours - with_them).abs().max():.1e} of {with_them.abs().max():.1f}, {len(ids)} tokens")
    assert (ours - with_them).abs().max() < 1e-5 * 4 * with_them.abs().max()
    assert torch.equal(ours.argmax(-1), with_them.argmax(-1))


def test_smollm2_finds_english_likely_and_the_same_words_sorted_not(smollm2):
    model, tokenizer = smollm2
    words = "It is a truth universally acknowledged, that a single man in possession of a good fortune".split()
    with torch.no_grad():
        losses = [
            model.loss(tokens[:, :-1], tokens[:, 1:]).item()
            for text in (" ".join(words), " ".join(sorted(words)))
            for tokens in [torch.tensor([tokenizer.encode(text)])]
        ]
    print(f"{losses[0]:.2f} and {losses[1]:.2f} nats per token")
    assert losses[0] + 1 < losses[1]


def test_minilm_vectors_and_tokens_equal_its_own_references(tmp_path):
    with Archive(cached(MINILM)) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (tmp_path / name).write_bytes(archive.read(f"model/{name}"))
    encoder, tokenizer = load_pretrained("minilm-l6")
    rows, lengths = tokenizer.batch(TEXTS)
    reference = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    reference.no_padding()
    assert [row[:n] for row, n in zip(rows, lengths, strict=True)] == [reference.encode(text).ids for text in TEXTS]
    settings = hf.BertConfig(**json.loads((tmp_path / "config.json").read_text()))
    theirs = hf.BertModel.from_pretrained(tmp_path, config=settings).eval()
    tokens, lengths = torch.tensor(rows), torch.tensor(lengths)
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).float()
    with torch.no_grad():
        vectors = encoder.embed(tokens, lengths)
        states = theirs(tokens, mask).last_hidden_state * mask[:, :, None]
        with_them = torch.nn.functional.normalize(states.sum(1) / mask.sum(1, keepdim=True), dim=1)
    print(f"off by {(vectors - with_them).abs().max():.1e}")
    assert (vectors - with_them).abs().max() < 1e-6  # of vectors of length 1: fp32 rounds each number by 6e-8
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[3]
    assert near > 0.6 > 0.2 > far
