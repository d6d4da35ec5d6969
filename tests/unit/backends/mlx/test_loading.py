"""From a folder to a model: what mlx-lm would read wrongly, names, quantisers, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from backends.mlx import BACKEND
from backends.mlx.config import complete_config
from backends.mlx.model import MlxModel
from federation.errors import BackendError, DataError, ModelError
from tests.parity.engines import load, losses
from tests.tiny import build_tiny_model, tiny_model
from tests.tiny_training import examples


def changed(folder: Path, changes: dict[str, Any], *, drop: tuple[str, ...] = ()) -> Path:
    """A tiny model with another configuration."""
    base = build_tiny_model(folder)
    config = json.loads((base / "config.json").read_text()) | changes
    for name in drop:
        del config[name]
    (base / "config.json").write_text(json.dumps(config))
    return base


def loaded(base: Path) -> MlxModel:
    model = BACKEND.load(base)
    assert isinstance(model, MlxModel)
    return model


ROTATION = {"rope_parameters": {"rope_theta": 123.0, "rope_type": "default"}}
LONGER = {
    "rope_parameters": {"rope_theta": 123.0, "rope_type": "linear", "factor": 4.0},
}


@pytest.mark.parametrize(
    ("changes", "drop"),
    [
        (ROTATION, ("rope_theta",)),
        (LONGER, ("rope_theta",)),
        # Untied is transformers' default, tied mlx-lm's: the head would be thrown away.
        ({}, ("tie_word_embeddings",)),
        ({}, ("head_dim", "rms_norm_eps")),
    ],
)
def test_a_configuration_of_transformers_means_the_same(
    tmp_path: Path, changes: dict[str, Any], drop: tuple[str, ...]
) -> None:
    base = changed(tmp_path / "base", changes, drop=drop)
    torch, mlx = load("cuda", base), load("mlx", base)
    batch = examples(mlx)
    expected = losses(torch, batch)
    assert np.abs(losses(mlx, batch) - expected).max() < 1e-5
    if changes:
        assert np.abs(expected - losses(load("cuda", tiny_model()), batch)).max() > 1e-2


def test_gemmas_two_rotations_and_its_window_are_found() -> None:
    found = complete_config(tiny_model("gemma3_text"))
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (500000.0, 10000.0)
    assert found["sliding_window_pattern"] == 2
    assert found["rope_scaling"] is None


def test_an_unknown_architecture_is_named_with_what_to_do(tmp_path: Path) -> None:
    base = changed(tmp_path / "base", {"model_type": "bert", "architectures": ["BertModel"]})
    with pytest.raises(ModelError, match="models of type 'bert'") as caught:
        BACKEND.load(base)
    assert 'backend = "cuda"' in caught.value.hint


def test_a_model_that_is_quantised_already_is_refused(tmp_path: Path) -> None:
    base = changed(tmp_path / "base", {"quantization": {"group_size": 64, "bits": 4}})
    weights = mx.load(str(base / "model.safetensors"))
    name = "model.layers.0.mlp.up_proj"
    packed, scales, biases = mx.quantize(weights[f"{name}.weight"], group_size=64, bits=4)
    weights |= {f"{name}.weight": packed, f"{name}.scales": scales, f"{name}.biases": biases}
    mx.save_safetensors(str(base / "model.safetensors"), weights)
    with pytest.raises(ModelError, match="quantised already") as caught:
        BACKEND.load(base)
    assert "[engine] quantisation" in caught.value.hint


@pytest.mark.parametrize("tied", [False, True])
def test_quantised_are_the_linear_layers_but_not_the_head(tied: bool) -> None:
    model = BACKEND.load(tiny_model(tied=tied), quantisation="affine4")
    assert isinstance(model, MlxModel)
    kinds = {path: type(module) for path, module in model._model.named_modules()}
    assert kinds["model.layers.1.mlp.down_proj"] is nn.QuantizedLinear
    assert kinds["model.embed_tokens"] is nn.Embedding
    assert model._head.path == ("model.embed_tokens" if tied else "lm_head")
    assert model.quantisation == "affine4"


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_quantisers_of_the_other_engine_are_refused(quantisation: str) -> None:
    with pytest.raises(BackendError, match=quantisation) as caught:
        BACKEND.load(tiny_model(), quantisation=quantisation)
    assert "affine4" in caught.value.hint


def test_half_precision_stays_as_it_is_stored() -> None:
    model = loaded(tiny_model(dtype="BF16"))
    assert model._head.dtype == "bfloat16"
    assert loaded(tiny_model())._head.dtype == "float32"


def test_the_context_ends_at_a_window_that_mlx_lm_leaves_out(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base", architecture="mistral")
    config = json.loads((base / "config.json").read_text()) | {"sliding_window": 32}
    (base / "config.json").write_text(json.dumps(config))
    model = loaded(base)
    with pytest.raises(DataError, match="reads at most 32"):
        model.losses(examples(model))
    # Gemma 3's window is its layers' own, and no bound.
    gemma = loaded(tiny_model("gemma3_text"))
    assert max(len(example.tokens) for example in examples(gemma)) > 24
    assert len(gemma.losses(examples(gemma))) == 9


def test_the_processor_is_used_only_by_name() -> None:
    probe = BACKEND.probe()
    if probe.device == "cpu":
        assert probe.available
        assert probe.only_by_name
        assert "for tests" in probe.reason
