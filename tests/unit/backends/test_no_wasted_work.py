"""What the engines compute beside real tokens: little, and nothing of it shows in a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest
import torch

from backends.base import Example, ForwardPlan, TrainJob
from backends.batches import forward_passes, optimizer_steps
from backends.cuda.forward import make_batch as torch_batch
from backends.cuda.probe import FORWARD_TOKENS as TORCH_TOKENS
from backends.mlx.forward import make_batch as mlx_batch
from backends.mlx.forward import token_losses as mlx_losses
from backends.mlx.model import MlxModel
from backends.mlx.probe import FORWARD_TOKENS as MLX_TOKENS
from federation.recipe import TrainingRecipe
from tests.parity.engines import load
from tests.tiny import tiny_model
from tests.tiny_training import examples

STEPS = 100


def torch_tokens(batch: Sequence[Example]) -> int:
    return torch_batch(batch, torch.device("cpu")).ids.numel()


def mlx_tokens(batch: Sequence[Example]) -> int:
    return mlx_batch(batch).ids.size


@pytest.mark.parametrize("sigma", [0.3, 0.8])
@pytest.mark.parametrize(
    ("padded_tokens", "forward_tokens"),
    [(torch_tokens, TORCH_TOKENS["cuda"]), (mlx_tokens, MLX_TOKENS["metal"])],
)
def test_at_most_a_tenth_more_than_real_tokens_go_through_the_model(
    sigma: float, padded_tokens: Callable[[Sequence[Example]], int], forward_tokens: int
) -> None:
    lengths = np.random.default_rng(3).lognormal(4.5, sigma, 8 * STEPS).clip(16, 2048).astype(int)
    data = [Example((1,) * n, n // 2) for n in lengths.tolist()]
    job = TrainJob(data, TrainingRecipe(steps=STEPS, batch_size=8))
    processed = 0
    for batches in islice(optimizer_steps(job), STEPS):
        for indices in forward_passes(data, batches, ForwardPlan(forward_tokens)):
            processed += padded_tokens([data[index] for index in indices])
    assert 1.0 <= processed / lengths.sum() <= 1.10


def test_on_mlx_nothing_reads_the_padding_though_there_is_no_mask() -> None:
    """Right padding and causal attention: no token sees what follows it."""
    model = load("mlx", tiny_model())
    assert isinstance(model, MlxModel)
    data = examples(model)
    batch = mlx_batch(data)
    real = np.arange(batch.ids.shape[1]) < np.array([[len(x.tokens)] for x in data])
    assert 0.5 < real.mean() < 0.95
    ids = np.array(batch.ids)
    other = np.where(real, ids, np.random.default_rng(1).integers(0, 500, ids.shape))
    assert (other != ids).any()
    arguments = batch.places, batch.targets
    expected = np.array(mlx_losses(model._head, batch.ids, *arguments))
    found = np.array(mlx_losses(model._head, mx.array(other.astype(np.int32)), *arguments))
    assert np.array_equal(found, expected)
    # Padding in front would need a mask: the same shift of ids and places changes the losses.
    shifted = mx.array(np.pad(ids, ((0, 0), (8, 0))))
    rows, columns = np.divmod(np.array(batch.places), ids.shape[1])
    places = mx.array((rows * shifted.shape[1] + columns + 8).astype(np.int32))
    in_front = np.array(mlx_losses(model._head, shifted, places, batch.targets))
    n_real = len(batch.owners)
    assert np.abs(in_front[:n_real] - expected[:n_real]).max() > 1e-2


def test_the_head_sees_completions_only() -> None:
    """Of all rows and columns, only so many hidden states become logits."""
    model = load("mlx", tiny_model())
    assert isinstance(model, MlxModel)
    batch = mlx_batch(examples(model))
    n_completion = sum(example.n_completion for example in examples(model))
    logits = model._head.logits(batch.ids, batch.places)
    assert n_completion <= logits.shape[0] < 1.2 * n_completion
    assert logits.shape[0] < 0.6 * batch.ids.size
