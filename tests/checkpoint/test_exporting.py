"""What is trained here opens elsewhere: in transformers with the same logits, and here again."""

from __future__ import annotations

import pytest
import torch

import llmlab as lab

SIZES = {"vocab_size": 20, "d_model": 16, "n_layer": 2, "n_head": 4, "max_seq": 12, "bias": False}
LLAMA = lab.Config(**SIZES, norm="rmsnorm", mlp="swiglu", position="rotary", n_kv_head=2)


@pytest.mark.parametrize("tied", [True, False])
def test_a_step_of_four_ranks_opens_in_transformers_with_the_same_logits(tmp_path, tied: bool) -> None:
    from dataclasses import replace

    from transformers import AutoModelForCausalLM

    tokens = torch.randint(0, 20, (4, 12), generator=torch.Generator().manual_seed(0))

    def worker(world):
        model = lab.Transformer(replace(LLAMA, tie_embeddings=tied))
        layout = lab.Layout(tp=2, pp=2, microbatches=2)
        step = lab.parallelize(model, lambda p: lab.optim.SGD(p, lr=0.5), layout, world)
        step(tokens, tokens)
        lab.checkpoint.export(tmp_path / "model", step)
        return step.logits(tokens)

    logits = lab.Simulator(4, kernels=False).run(worker).results[0]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, logits, atol=1e-5)  # fp32, sums of 16 to 64 terms
    with pytest.raises(OSError, match="the model was not exported: .*exists"):
        lab.checkpoint.export(tmp_path / "model", lab.Transformer(LLAMA))


def test_what_llamas_layout_cannot_say_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="export wants a model of Llama's kind"):
        lab.checkpoint.export(tmp_path / "model", lab.Transformer(lab.Config(**SIZES)))
    with pytest.raises(ValueError, match="export wants target as"):
        lab.checkpoint.export(tmp_path / "model", torch.nn.Linear(2, 2))
    assert not (tmp_path / "model").exists()
