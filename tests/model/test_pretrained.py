"""Folders in Hugging Face's layout, written by `transformers` with random weights, in our own modules."""

import gzip
import json
import shutil

import pytest
import torch
import transformers as hf  # a name of it is imported when it is used: only where these tests run
from safetensors.torch import load_file, save_file
from torch import nn

from llmlab.generation import generate
from llmlab.model import Config, Transformer
from llmlab.model.embedding import llama3_factors
from llmlab.model.families import FAMILIES
from llmlab.model.pretrained import load_pretrained
from llmlab.model.safetensors import read_safetensors
from llmlab.model.text_encoder import TextEncoder
from llmlab.text import BPE
from llmlab.text.published import tokenizer_json

GPT2 = {"vocab_size": 300, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 16}
LLAMA = {
    **{"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 16},
}
LLAMA3 = {  # of the 8 frequencies of a head some turn often in 8 positions, some hardly, some in between
    **{"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 0.1, "high_freq_factor": 1.0},
    "original_max_position_embeddings": 8,
}
BERT = {
    **{"vocab_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3},
    **{"intermediate_size": 40, "max_position_embeddings": 16},
}
DECODERS = {
    "gpt2 tied": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "gpt2 untied, other mlp": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(
            **GPT2, n_inner=40, activation_function="relu", layer_norm_epsilon=1e-3, tie_word_embeddings=False,
        )
    ),
    "llama untied": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
    "llama tied, other base": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            **LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-3,
            tie_word_embeddings=True,
        )
    ),
    "llama with biases": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True)),
    "llama with biases of attention": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, attention_bias=True)),
    "llama with biases of the mlp": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, mlp_bias=True)),
    "llama with wide heads": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA, head_dim=12)),
    "llama 3": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**{**LLAMA, "head_dim": 16}, rope_parameters=LLAMA3)),
    "llama, linear": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**LLAMA, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0})
    ),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA, head_dim=6, sliding_window=None)),
    "mistral, window of all": lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA, sliding_window=16)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**LLAMA, tie_word_embeddings=True)),
}  # fmt: skip


def randomised(model, dtype):
    """Make every weight count: theirs start with norms of 1 and biases of 0, which would hide a mistake."""
    model = model.to(dtype).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.set_attn_implementation("eager")
    return model


def saved(model, folder):
    model.save_pretrained(folder)
    if model.config.model_type == "bert":
        vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##able", "!", "中"]
        normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
        tokens = {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": {t: i for i, t in enumerate(vocab)}}
        text = json.dumps({"model": tokens, "normalizer": normalizer})
    else:
        text = tokenizer_json(BPE.train(["the cat and the dog and the hat"], vocab_size=262, specials=["<|end|>"]))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def upcasts_to_fp64(monkeypatch):
    """Let `transformers` compute norms, angles and softmax in fp64 where it says fp32 whatever the model's dtype."""

    def patch(model):
        monkeypatch.setattr(torch, "float32", torch.float64)
        monkeypatch.setattr(torch, "float", torch.float64)
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        if hasattr(model, "lm_head") and hasattr(model.base_model, "rotary_emb"):
            rope, config = model.base_model.rotary_emb, model.config
            K = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            base, kind = config.rope_parameters["rope_theta"], config.rope_parameters["rope_type"]
            rope.inv_freq = base ** -(torch.arange(0, K, 2, dtype=torch.float64) / K)
            if kind != "default":  # their own function, now in fp64
                rope.inv_freq = hf.modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind](config, "cpu")[0]
                assert rope.inv_freq.dtype == torch.float64

    return patch


def check_gradients(agree, theirs, ours):
    """Take their gradients to where the weights went, and compare.

    Without rotation a bias of the keys adds the same to all scores of a row: its gradient is 0, in both no more than
    what rounding leaves of the terms that cancel, which are of the size of the gradient of the query's bias.
    """
    family = FAMILIES[theirs.config.model_type]
    grads = {name.removeprefix(family.prefix): p.grad for name, p in theirs.named_parameters()}
    origins, cancelled = family.origins(ours.config), ours.config.position != "rotary"
    found = {name: (p.grad, origins[name].take(grads[origins[name].name])) for name, p in ours.named_parameters()}
    none = {name for name in found if cancelled and name.endswith("key.bias")}
    agree(*zip(*(pair for name, pair in found.items() if name not in none), strict=True))
    for name in none:
        largest = ours.get_parameter(name.replace("key.bias", "query.bias")).grad.abs().max()
        # some thousand terms of that size: a thousandth in fp32, which a machine's own order of summing decides
        assert all(grad.abs().max() < 1e4 * torch.finfo(grad.dtype).eps * largest for grad in found[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("variant", DECODERS)
def test_decoders_equal_transformers_in_logits_and_gradients(
    agree, tmp_path, monkeypatch, upcasts_to_fp64, variant, dtype
):
    theirs = randomised(DECODERS[variant](), dtype)
    ours, _ = load_pretrained(saved(theirs, tmp_path), dtype=dtype)
    assert ours.tied == theirs.config.tie_word_embeddings and ours.config.n_param == theirs.num_parameters()
    tokens, weights = torch.randint(300, (3, 11)), torch.randn(3, 11, 300, dtype=dtype)
    if dtype == torch.float64:
        upcasts_to_fp64(theirs)
    with_them = theirs(tokens).logits
    (with_them * weights).sum().backward()
    monkeypatch.undo()
    logits = ours(tokens)
    (logits * weights).sum().backward()
    agree(
        [logits], [with_them], terms=48
    )  # the longest sums of the forward pass; of the backward, those over 300 logits
    check_gradients(agree, theirs, ours)


@pytest.mark.parametrize("variant", ["llama 3", "llama with wide heads", "mistral", "qwen2"])
def test_cached_generation_equals_transformers(tmp_path, variant):
    theirs = randomised(DECODERS[variant](), torch.float64)
    ours, _ = load_pretrained(saved(theirs, tmp_path), dtype=torch.float64)
    prompt = torch.randint(300, (1, 3))
    wanted = theirs.generate(prompt, max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert generate(ours, prompt, max_new_tokens=10, use_cache=True).tolist() == wanted.tolist()


@pytest.mark.parametrize("trained", [8192, 4096])
def test_llama_3s_factors_equal_those_of_transformers(trained):
    rope = {**LLAMA3, "rope_theta": 500000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    sizes = {"head_dim": 128, "max_position_embeddings": 131072}
    config = hf.LlamaConfig(**sizes, rope_parameters={**rope, "original_max_position_embeddings": trained})
    theirs = hf.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]
    factors = torch.tensor(llama3_factors(128, 500000.0, 8.0, 1.0, 4.0, float(trained)), dtype=torch.float64)
    frequencies = 500000.0 ** -(torch.arange(0, 128, 2, dtype=torch.float64) / 128)
    assert factors[0] == 1.0 and factors[-1] == 8.0 and ((factors > 1) & (factors < 8)).sum() > 3
    # theirs are fp32, of a power, a few products and a quotient
    torch.testing.assert_close(theirs.double(), frequencies / factors, rtol=20 * 2**-24, atol=0)


def test_the_older_way_to_write_llama_3s_settings_means_the_same(tmp_path):
    folder = saved(randomised(DECODERS["llama 3"](), torch.float32), tmp_path)
    config = load_pretrained(folder)[0].config
    content = json.loads((folder / "config.json").read_text())
    rope = content.pop("rope_parameters")
    old = {**content, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (folder / "config.json").write_text(json.dumps(old))
    assert load_pretrained(folder)[0].config == config and len(set(config.rotary_factors)) > 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_encoders_equal_transformers_with_padding_and_two_segments(agree, tmp_path, dtype):
    theirs = randomised(hf.BertModel(hf.BertConfig(**BERT), add_pooling_layer=True), dtype)
    ours, tokenizer = load_pretrained(saved(theirs, tmp_path), dtype=dtype)
    assert isinstance(ours, TextEncoder) and tokenizer.encode("Unable 中!") == [4, 5, 7, 6]
    tokens = torch.randint(1, 8, (3, 9))  # 0 is padding, whose row they keep from learning
    segments = torch.randint(2, (3, 9))
    lengths = torch.tensor([9, 4, 1])
    mask = torch.arange(9) < lengths[:, None]
    with_them = theirs(tokens, mask.long(), segments).last_hidden_state
    vectors = ours(tokens, lengths, segments)
    weights = torch.randn_like(vectors) * mask[:, :, None]
    (with_them * weights).sum().backward()
    (vectors * weights).sum().backward()
    agree([vectors[mask]], [with_them[mask]], terms=40)
    check_gradients(agree, theirs, ours)


def test_a_text_vector_is_the_mean_of_its_own_tokens_and_of_length_1():
    encoder = TextEncoder(Config(9, 12, 2, 3, 8, norm_first=False, causal=False, dtype=torch.float64))
    tokens = torch.randint(9, (1, 5))
    padded = torch.cat((tokens, torch.full((1, 3), 8)), dim=1)
    vector = encoder.embed(padded, torch.tensor([5]))
    mean = encoder(tokens).mean(1)
    torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-12, rtol=0)
    torch.testing.assert_close(vector, encoder.embed(tokens), atol=1e-12, rtol=0)


def test_an_encoder_drops_with_masks_of_its_own_in_each_place():
    encoder = TextEncoder(Config(9, 12, 2, 3, 8, norm_first=False, causal=False, dropout=0.5)).train()
    dropouts = [module for module in encoder.modules() if getattr(module, "p", 0) > 0]
    x = torch.ones(1, 8, 12)
    assert len({str(dropout.dropped(x).tolist()) for dropout in dropouts}) == len(dropouts) == 5


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"norm_first": False}])
def test_an_encoder_wants_an_encoders_config(options):
    with pytest.raises(ValueError, match="a BERT encoder wants causal=False"):
        TextEncoder(Config(9, 12, 2, 3, 8, **options))


def test_an_encoder_refuses_more_tokens_than_positions():
    encoder = TextEncoder(Config(9, 12, 1, 3, 8, norm_first=False, causal=False))
    with pytest.raises(ValueError, match="at most max_seq=8 tokens, got 9"):
        encoder(torch.zeros(1, 9, dtype=torch.long))


# --- at the door ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sound folder of the Llama family."""
    torch.manual_seed(0)
    return saved(
        randomised(hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)), torch.float32),
        tmp_path_factory.mktemp("whole"),
    )


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    """A copy of it to damage; a model that takes memory for its weights is a mistake."""

    def built(self, *args, **kwargs):
        raise AssertionError("memory was taken before the files had been checked")

    monkeypatch.setattr(Transformer, "to_empty", built)
    return shutil.copytree(whole, tmp_path / "llama")


def rewritten(folder, change):
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def reset(folder, **settings):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **settings}))


NORM = "model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda t: t.pop(NORM), r"1 missing: \['layers\.1\.input_layernorm\.weight'\]"),
        (lambda t: t.update({NORM: torch.ones(31)}), r"must have shape \(32,\) as the config says, got \(31,\)"),
        (lambda t: t.update({"model.layers.0.extra": torch.ones(1)}), r"1 without one: \['layers\.0\.extra'\]"),
        (lambda t: t.update({NORM[6:]: torch.ones(32)}), "must be stored once"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_before_anything_is_built(folder, damage, message):
    rewritten(folder, damage)
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"model_type": "mamba"}, "model_type must be one of gpt2, llama, mistral, qwen2, bert; got 'mamba'"),
        ({"model_type": ["llama"]}, "model_type must be one of"),
        ({"hidden_size": None}, "must give 'hidden_size'"),
        ({"hidden_size": 64, "num_attention_heads": 8}, "must have shape"),
        ({"hidden_size": "32"}, "hidden_size must be an integer"),
        ({"num_hidden_layers": 10**9}, "1000000000 layers need more tensors than the 21 stored"),
        ({"vocab_size": 10**12}, r"must have shape \(1000000000000, 32\)"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"head_dim": 16}, r"must have shape \(64, 32\) as the config says, got \(32, 32\)"),
        ({"head_dim": -8}, "head_dim must be an integer of at least 1, got -8"),
        ({"attention_bias": True}, r"4 missing|8 missing: \['layers\.0\.self_attn\.k_proj\.bias'"),
        ({"attention_bias": "yes"}, "attention_bias must be true or false"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "must give 'factor'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "one of default, linear, llama3; got 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "of one rope_type, got .'default', 'linear'."),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_parameters": None},
            "one of default, linear, llama3; got 'dynamic'",
        ),
        ({"rope_scaling": "linear"}, "rope_scaling must be a JSON object, got 'linear'"),
        ({"model_type": "mistral", "sliding_window": 8}, "sliding_window must be at least max_position_embeddings=16"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8}, "sliding_window must be at least"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number above 0"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_anything_is_built(folder, settings, message):
    reset(folder, **settings)
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


def test_a_truncated_file_of_weights_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="it was cut off"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_its_other_files_is_refused(whole, tmp_path, name):
    folder = shutil.copytree(whole, tmp_path / "llama")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"llama must hold {name}"):
        load_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[1]"])
def test_settings_that_are_no_json_object_are_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="settings must be"):
        load_pretrained(folder)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a2146" * 8 + b"\nsize 12345\n"
FOREIGN = {
    "a pointer to a file that Git LFS keeps elsewhere: fetch the file itself, with `git lfs pull`": POINTER,
    "a page of HTML or XML": b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
    "an empty file": b"",
    "a zip archive; if torch.save wrote it, it holds a pickle": b"PK\x03\x04\x00\x00\x08\x08" + bytes(100),
    "a pickle, and loading it could run any code": b"\x80\x02}q\x00X\x01\x00\x00\x00aK\x01s." * 5,
    "compressed by gzip": gzip.compress(b"{}" * 100, mtime=0),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("message", FOREIGN)
def test_files_of_another_kind_are_refused_by_what_they_are(whole, tmp_path, name, message):
    folder = shutil.copytree(whole, tmp_path / "llama")
    (folder / name).write_bytes(FOREIGN[message])
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)


@pytest.mark.parametrize("message", FOREIGN)
def test_a_gguf_that_is_none_is_refused_by_what_it_is(tmp_path, message):
    (tmp_path / "m.gguf").write_bytes(FOREIGN[message])
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "m.gguf")


def test_weights_under_the_other_formats_name_are_refused_by_what_they_are(folder, tmp_path):
    shutil.copy(folder / "model.safetensors", tmp_path / "m.gguf")
    with pytest.raises(ValueError, match=r"m\.gguf must hold GGUF, but it is a safetensors file"):
        load_pretrained(tmp_path / "m.gguf")
    (folder / "model.safetensors").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    with pytest.raises(ValueError, match="but it is a GGUF file"):
        load_pretrained(folder)


def test_a_header_that_only_begins_like_another_kind_is_read(tmp_path):
    for length in (0x0280, 0x3C):  # as a pickle does, and as a page does
        header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(length)
        (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + header + b"\x07")
        assert read_safetensors(tmp_path / "a.safetensors")["a"].read().item() == 7


@pytest.mark.parametrize("wrappers", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_what_a_wrapper_put_before_every_name_is_taken_off(whole, tmp_path, wrappers):
    folder = shutil.copytree(whole, tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    save_file({wrappers + name: tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    wrapped, plain = load_pretrained(folder)[0].state_dict(), load_pretrained(whole)[0].state_dict()
    assert all(torch.equal(wrapped[name], plain[name]) for name in plain)


def test_a_prefix_before_some_names_or_an_unknown_one_is_named_with_what_is_there(folder):
    tensors = load_file(folder / "model.safetensors")
    some = {("module." if "layers.0" in name else "") + name: tensor for name, tensor in tensors.items()}
    for odd in (some, {f"net.{name}": tensor for name, tensor in tensors.items()}):
        save_file(odd, folder / "model.safetensors")
        with pytest.raises(ValueError, match=r"missing: .*; there are 21: \['(embed|net\.lm_head)"):
            load_pretrained(folder)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tied_head_that_differs_from_the_embedding_is_refused(tmp_path, family):
    theirs = randomised(DECODERS["llama tied, other base" if family == "llama" else "gpt2 tied"](), torch.float32)
    folder, table = saved(theirs, tmp_path), theirs.get_input_embeddings().weight.detach()
    rewritten(folder, lambda tensors: tensors.update({"lm_head.weight": table.clone()}))
    assert load_pretrained(folder)[0].tied  # a second copy of the table
    for other in (table + 1e-3 * (torch.arange(300) == 7)[:, None], table[:299].clone()):
        rewritten(folder, lambda tensors, other=other: tensors.update({"lm_head.weight": other}))
        with pytest.raises(ValueError, match=r"lm_head\.weight must be equal to .*write false into config\.json"):
            load_pretrained(folder)
    rewritten(folder, lambda tensors: tensors.update({"lm_head.weight": table + 1}))
    reset(folder, tie_word_embeddings=False)
    model = load_pretrained(folder)[0]
    assert not model.tied and torch.equal(model.head.weight, table + 1)


def test_pickles_are_refused_and_never_loaded(folder, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("a pickle was loaded"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for path in (folder, folder / "pytorch_model.bin", "weights.pt"):
        with pytest.raises(ValueError, match="is a pickle, and loading it could run any code"):
            load_pretrained(path)


def test_an_unknown_name_says_what_is_known():
    with pytest.raises(ValueError, match=r"smollm2-135m, minilm-l6, a folder or a \.gguf file; got 'gpt-5'"):
        load_pretrained("gpt-5")


def test_weights_in_several_files_are_read_together(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for part, some in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in some}, folder / part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: "ab"[i % 2] + ".safetensors" for i, n in enumerate(names)}}))
    save_file({"not named": torch.ones(1)}, folder / "c.safetensors")
    split, one = load_pretrained(folder)[0].state_dict(), load_pretrained(whole)[0].state_dict()
    assert all(torch.equal(split[name], one[name]) for name in one)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"b\.safetensors, which llama must hold: it is missing"):
        load_pretrained(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../whole/model.safetensors"}}))
    with pytest.raises(ValueError, match="must name files beside it"):
        load_pretrained(folder)


def test_a_loaded_model_keeps_nothing_of_the_file(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "llama")
    model, _ = load_pretrained(folder)
    before = model.norm.weight.clone()
    (folder / "model.safetensors").write_bytes(b"gone")
    assert torch.equal(model.norm.weight, before) and not model.training
