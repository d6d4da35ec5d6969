"""Losses from completion-only logits against a plain computation over all logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

from backends.base import Example
from backends.cuda import BACKEND
from backends.cuda.attention import choose_attention
from backends.cuda.evaluation import Evaluation
from backends.cuda.forward import make_batch, token_losses
from tests.tiny import Architecture, tiny_model
from tests.tiny_training import examples

CPU = torch.device("cpu")


def reference(model: torch.nn.Module, example: Example) -> float:
    """Mean over the completion of -log p(token | all tokens before), one example, no padding."""
    ids = torch.tensor([example.tokens])
    with torch.no_grad():
        logs = log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    places = range(example.n_prompt, len(example.tokens))
    return float(-sum(logs[p - 1, example.tokens[p]] for p in places) / len(places))


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_losses_equal_a_full_logits_computation(architecture: Architecture) -> None:
    base = tiny_model(architecture)
    plain = AutoModelForCausalLM.from_pretrained(base)
    batch = examples(BACKEND.load(base, threads=1))
    found = [loss.loss for loss in Evaluation(plain).losses(batch)]
    assert found == pytest.approx([reference(plain, example) for example in batch], rel=1e-5)


def test_both_attentions_agree() -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    batch = make_batch(examples(BACKEND.load(tiny_model(), threads=1)), CPU)
    choose_attention(model, 1, 8)
    assert model.config._attn_implementation == "eager"
    few = token_losses(model, batch)
    choose_attention(model, 1 << 10, 1 << 10)
    assert model.config._attn_implementation == "sdpa"
    logits = model(input_ids=batch.ids, attention_mask=batch.mask).logits
    places = logits.flatten(0, 1)[batch.places]
    fused = torch.nn.functional.cross_entropy(places, batch.targets, reduction="none")
    assert torch.allclose(few, fused, atol=1e-4)


def test_a_batch_says_what_is_predicted_from_where() -> None:
    batch = make_batch([Example((5, 6, 7, 8), 2), Example((9, 10), 1)], CPU)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.places.tolist() == [1, 2, 4]
    assert batch.targets.tolist() == [7, 8, 10]
    assert batch.owners.tolist() == [0, 0, 1]


def test_the_head_sees_completion_positions_only() -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model())
    seen: list[tuple[int, ...]] = []
    hook = model.lm_head.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape)))
    token_losses(model, make_batch([Example((5, 6, 7, 8), 2), Example((9, 10), 1)], CPU))
    hook.remove()
    assert seen == [(1, 3, 512)]
    # Afterwards the model is as it was.
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 512)
