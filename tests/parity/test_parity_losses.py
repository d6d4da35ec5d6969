"""Per-example losses and greedy answers, for every architecture that is tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.base import GenerateOptions, LoadedModel
from tests.parity.engines import MODELS, Pair, losses
from tests.tiny import Architecture, tiny_model
from tests.tiny_training import conversation, examples, schema_for, write_random

LINEARS: dict[str, tuple[str, ...]] = {
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
}
OTHERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def answer(model: LoadedModel) -> tuple[str, list[float]]:
    options = GenerateOptions(max_tokens=12)
    tokens = list(model.generate(conversation("asthma")[:1], options))
    return "".join(token.text for token in tokens), [token.probability for token in tokens]


@pytest.mark.parametrize(("architecture", "tied"), MODELS)
def test_losses_and_answers_are_the_same(
    tmp_path: Path, architecture: Architecture, tied: bool
) -> None:
    base = tiny_model(architecture, tied=tied)
    pair = Pair.of(base)
    batch = examples(pair.torch)
    assert batch == examples(pair.mlx)
    plain = losses(pair.torch, batch)
    assert np.abs(losses(pair.mlx, batch) - plain).max() < 1e-5
    # An adapter on every linear layer.
    schema = schema_for(base, LINEARS.get(architecture, OTHERS), rank=4)
    pair.attach(write_random(tmp_path / "a.safetensors", schema), schema)
    adapted = losses(pair.torch, batch)
    assert np.abs(losses(pair.mlx, batch) - adapted).max() < 1e-5
    assert np.abs(adapted - plain).min() > 1e-4
    text, probabilities = answer(pair.torch)
    mlx_text, mlx_probabilities = answer(pair.mlx)
    assert mlx_text == text
    assert mlx_probabilities == pytest.approx(probabilities, rel=1e-4)


def test_answers_in_a_batch_are_the_same() -> None:
    for architecture in ("llama", "gemma3_text"):
        pair = Pair.of(tiny_model(architecture))
        questions = [conversation(name)[:1] for name in ("asthma", "shortness of breath", "cough")]
        options = GenerateOptions(max_tokens=8)
        answers = [
            [
                [token.text for token in tokens]
                for tokens in model.generate_batch(questions, options)
            ]
            for model in (pair.torch, pair.mlx)
        ]
        assert answers[0] == answers[1]
        assert len({tuple(tokens) for tokens in answers[0]}) > 1
