"""Gradients and trainings, and proof that each comparison notices the mistakes it is there for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.optimizers
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backends.base import TrainJob
from federation.adapter import AdapterSchema, Factors
from tests.parity.engines import MODELS, Pair, farthest, gradients, load, losses, trained
from tests.tiny import Architecture, tiny_model
from tests.tiny_training import RECIPE, examples, schema_for, write_random

BATCHES = [(0, 1, 2), (3, 4, 5, 6)]
TWENTY = RECIPE.model_copy(
    update={"steps": 20, "schedule": "cosine", "weight_decay": 0.05, "max_grad_norm": 0.5}
)
LOSS, GRADIENT, ADAPTER = 1e-5, 1e-4, 1e-3


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.of(tiny_model())


def adapter(tmp_path: Path, schema: AdapterSchema) -> Path:
    return write_random(tmp_path / "start.safetensors", schema, seed=3)


ALONE = [(architecture, tied, f) for f in "AB" for architecture, tied in MODELS if not tied]


@pytest.mark.parametrize(
    ("architecture", "tied", "factors"), [*((*model, "AB") for model in MODELS), *ALONE]
)
def test_gradients_of_every_factor_are_the_same(
    tmp_path: Path, architecture: Architecture, tied: bool, factors: Factors
) -> None:
    """On every linear layer of every architecture, training both factors or one of them."""
    base = tiny_model(architecture, tied=tied)
    here = Pair.of(base)
    schema = schema_for(base, (r".*layers\.\d+\.(self_attn|mlp)\..*",))
    here.attach(adapter(tmp_path, schema), schema)
    job = TrainJob(examples(here.torch), RECIPE, factors=factors)
    expected = gradients(here.torch, job, BATCHES)
    assert expected.keys() == schema.shapes(factors).keys()
    assert min(np.abs(gradient).max() for gradient in expected.values()) > 1e-6
    assert farthest(gradients(here.mlx, job, BATCHES), expected) < GRADIENT


@pytest.mark.parametrize("accumulation", [1, 2])
def test_twenty_steps_give_the_same_adapter(pair: Pair, tmp_path: Path, accumulation: int) -> None:
    schema = schema_for(tiny_model())
    start = adapter(tmp_path, schema)
    pair.attach(start, schema)
    recipe = TWENTY.model_copy(update={"accumulation": accumulation})
    job = TrainJob(examples(pair.torch), recipe)
    expected = trained(pair.torch, job, tmp_path / "torch")
    assert farthest(trained(pair.mlx, job, tmp_path / "mlx"), expected) < ADAPTER
    # They went somewhere.
    assert farthest(load_file(start), expected) > 100 * ADAPTER


def test_an_adapter_of_one_engine_serves_the_other(pair: Pair, tmp_path: Path) -> None:
    schema = schema_for(tiny_model())
    batch = examples(pair.torch)
    for teacher, other in ((pair.mlx, pair.torch), (pair.torch, pair.mlx)):
        teacher.attach(adapter(tmp_path, schema), schema)
        before = losses(teacher, batch)
        trained(teacher, TrainJob(batch, RECIPE), tmp_path / "trained")
        other.attach(tmp_path / "trained", schema)
        after = losses(other, batch)
        assert np.abs(after - losses(teacher, batch)).max() < LOSS
        assert after.mean() < before.mean() - 0.05


def _wrong_scale(schema: AdapterSchema) -> AdapterSchema:
    return schema.model_copy(update={"alpha": schema.alpha * 1.01})


def _same(schema: AdapterSchema) -> AdapterSchema:
    return schema


def _turn(path: Path) -> None:
    """Turn the first square factor over, as a forgotten transposition would."""
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.shape[0] == tensor.shape[1])
    save_file({**tensors, name: np.ascontiguousarray(tensors[name].T)}, path)


def _keep(path: Path) -> None:
    """Change nothing."""


@pytest.mark.parametrize(
    ("change_schema", "change_file", "differs"),
    [(_same, _keep, False), (_wrong_scale, _keep, True), (_same, _turn, True)],
)
def test_the_comparison_notices_a_wrong_scale_and_a_turned_factor(
    pair: Pair,
    tmp_path: Path,
    change_schema: Callable[[AdapterSchema], AdapterSchema],
    change_file: Callable[[Path], None],
    differs: bool,
) -> None:
    # As many ranks as inputs, so that a turned factor still fits.
    schema = schema_for(tiny_model(), ("q_proj",), rank=64)
    file = adapter(tmp_path, schema)
    pair.torch.attach(file, schema)
    change_file(file)
    pair.mlx.attach(file, change_schema(schema))
    batch = examples(pair.torch)
    job = TrainJob(batch, RECIPE)
    far = np.abs(losses(pair.mlx, batch) - losses(pair.torch, batch)).max()
    far_gradients = farthest(gradients(pair.mlx, job, BATCHES), gradients(pair.torch, job, BATCHES))
    assert bool(far > LOSS) is differs
    assert (far_gradients > GRADIENT) is differs


@pytest.mark.parametrize("left_out", ["bias_correction", "weight_decay"])
def test_the_comparison_notices_another_adamw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    whole = mlx.optimizers.AdamW
    monkeypatch.setattr(mlx.optimizers, "AdamW", lambda **given: whole(**{**given, left_out: 0}))
    schema = schema_for(tiny_model())
    start = adapter(tmp_path, schema)
    found = []
    for name in ("cuda", "mlx"):
        model = load(name, tiny_model())
        model.attach(start, schema)
        found.append(trained(model, TrainJob(examples(model), TWENTY), tmp_path / name))
    assert farthest(found[1], found[0]) > ADAPTER
