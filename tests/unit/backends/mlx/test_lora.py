"""The adapter against mlx-lm's own, and the exactness of taking it out."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from backends.base import Quantisation
from backends.mlx import BACKEND
from backends.mlx.model import MlxModel
from tests.tiny import tiny_model
from tests.tiny_training import schema_for, write_random

IDS = mx.array([[1, 339, 275, 201, 363, 285]])


def loaded(quantisation: Quantisation = "none") -> MlxModel:
    model = BACKEND.load(tiny_model(dtype="BF16"), quantisation=quantisation)
    assert isinstance(model, MlxModel)
    return model


@pytest.mark.parametrize("quantisation", ["none", "affine4", "affine8"])
def test_taking_it_out_restores_every_logit(tmp_path: Path, quantisation: Quantisation) -> None:
    model = loaded(quantisation)
    modules = [type(module) for module in model._model.modules()]
    plain = model._model(IDS)
    schema = schema_for(tiny_model())
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema, dropout=0.1)
    assert not mx.array_equal(model._model(IDS), plain)
    model.detach()
    assert mx.array_equal(model._model(IDS), plain)
    assert [type(module) for module in model._model.modules()] == modules


def test_a_swap_keeps_the_very_layers(tmp_path: Path) -> None:
    model = loaded()
    schema = schema_for(tiny_model())
    found = []
    for seed in (1, 2):
        model.attach(write_random(tmp_path / f"{seed}.safetensors", schema, seed=seed), schema)
        found.append([id(module) for module in model._model.modules()])
    assert found[0] == found[1]


def test_factors_are_float32_on_a_half_precision_base(tmp_path: Path) -> None:
    model = loaded()
    schema = schema_for(tiny_model())
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema)
    assert model._lora is not None
    assert {array.dtype for array in model._lora.arrays("AB").values()} == {mx.float32}


def test_a_layer_computes_what_its_definition_says(tmp_path: Path) -> None:
    """W x + (alpha / r) B A x, with A and B as the canonical file has them."""
    schema = schema_for(tiny_model(), ("q_proj",), rank=2, alpha=6.0)
    model = BACKEND.load(tiny_model())
    assert isinstance(model, MlxModel)
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema)
    layer = dict(model._model.named_modules())["model.layers.1.self_attn.q_proj"]
    assert isinstance(layer.linear, nn.Linear)
    assert model._lora is not None
    tensors = model._lora.tensors()
    prefix = "base_model.model.model.layers.1.self_attn.q_proj"
    a, b = tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"]
    x = np.random.default_rng(0).normal(size=(3, 64)).astype("f4")
    expected = x @ np.array(layer.linear.weight).T + 3.0 * x @ a.T @ b.T
    assert np.allclose(np.array(layer(mx.array(x))), expected, atol=1e-5)
