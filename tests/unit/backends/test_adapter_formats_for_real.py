"""Adapter folders that PEFT and mlx-lm themselves write and load, on tiny models of each family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from backends import mlx_folder, peft_config
from backends.cuda import BACKEND
from backends.cuda.lora import Lora
from backends.cuda.model import TorchModel
from backends.lora_adapter import LoraAdapter, write_file
from backends.mlx_folder import read_mlx, write_mlx
from backends.peft_folder import read_peft, write_peft
from federation.adapter import ModuleShape
from federation.base_model import describe, read_card
from federation.errors import AdapterError
from tests.tiny import build_tiny_model, tiny_model
from tests.tiny_training import schema_for, write_random

TOKENS = [[1, 5, 9, 40, 77, 3]]
_TEXT = {
    "vocab_size": 160,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": _TEXT | {"tie_word_embeddings": True},
    "qwen2": _TEXT,
    "gemma2": _TEXT,
    "gemma3": {
        "text_config": _TEXT | {"model_type": "gemma3_text", "sliding_window_pattern": 2},
        "vision_config": _VISION,
        "image_token_index": 150,
        "boi_token_index": 151,
        "eoi_token_index": 152,
    },
    "phi": _TEXT | {"num_key_value_heads": 4, "head_dim": 16, "hidden_size": 64},
    "phi3": _TEXT,
}
# transformers 5 writes these under names of its own, where mlx-lm does not look.
_ROPE = {
    "rope_theta": 10000.0,
    "rope_local_base_freq": 10000.0,
    "partial_rotary_factor": 0.5,
}


def build_family(family: str, folder: Path) -> tuple[Path, tuple[ModuleShape, ...]]:
    """A random model, and the linear layers of its language model."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    text = settings.get("text_config") or settings
    text.pop("rope_parameters")
    text.update(_ROPE)
    settings["vocab_size"] = _TEXT["vocab_size"]
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_bytes((tiny_model() / "tokenizer.json").read_bytes())
    names = (tiny_model() / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(names)
    linears = describe(folder, family).linears
    return folder, tuple(m for m in linears if "layers." in m.path and "vision" not in m.path)


def random_adapter(linears: tuple[ModuleShape, ...], folder: Path) -> LoraAdapter:
    """As another hospital's PEFT folder holds it: rsLoRA, in bfloat16."""
    folder.mkdir()
    stream = np.random.default_rng(5)
    config = LoraConfig(
        r=6,
        lora_alpha=12,
        use_rslora=True,
        task_type="CAUSAL_LM",
        target_modules=[m.path for m in linears],
    )
    config.save_pretrained(folder)
    prefix = "base_model.model."
    tensors = {}
    for m in linears:
        tensors[f"{prefix}{m.path}.lora_A.weight"] = stream.normal(size=(6, m.inputs))
        tensors[f"{prefix}{m.path}.lora_B.weight"] = stream.normal(size=(m.outputs, 6))
    write_file(
        folder / peft_config.WEIGHTS_NAME, {n: (t * 0.1).astype("f4") for n, t in tensors.items()}
    )
    return read_peft(folder, linears)


def logits(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(torch.tensor(TOKENS)).logits[0])


def base_of(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def ours(folder: Path, adapter: LoraAdapter) -> np.ndarray:
    model = base_of(folder).eval()
    lora = Lora(model, adapter.schema, 0.0)
    lora.fill(adapter.tensors)
    return logits(model)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """But for the order of sums: peft adds the low-rank part in a step of its own."""
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_exports_give_the_logits_of_our_engine(family: str, tmp_path: Path) -> None:
    folder, linears = build_family(family, tmp_path / "base")
    chosen = tuple(m for m in linears if not m.path.endswith(("1.mlp.down_proj", "1.mlp.fc2")))
    adapter = random_adapter(chosen, tmp_path / "source")
    expected = ours(folder, adapter)
    assert np.abs(expected - logits(base_of(folder).eval())).max() > 0.01

    (tmp_path / "peft").mkdir()
    write_peft(tmp_path / "peft", adapter, family)
    found = PeftModel.from_pretrained(base_of(folder), tmp_path / "peft").eval()
    assert_same(logits(found), expected)

    (tmp_path / "mlx").mkdir()
    write_mlx(tmp_path / "mlx", adapter, "tiny")
    model, _ = mlx_lm.utils.load(str(folder), adapter_path=str(tmp_path / "mlx"))[:2]
    np.testing.assert_allclose(np.array(model(mx.array(TOKENS)))[0], expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_peft_trained_is_read(tmp_path: Path, rslora: bool) -> None:
    base = tiny_model()
    torch.manual_seed(0)
    config = LoraConfig(
        r=6,
        lora_alpha=9,
        target_modules=["q_proj", "up_proj"],
        use_rslora=rslora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base_of(base), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        model(torch.tensor(TOKENS), labels=torch.tensor(TOKENS)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path)
    adapter = read_peft(tmp_path, read_card(base).linears)
    assert_same(ours(base, adapter), logits(model.eval()))
    saved = load_file(tmp_path / peft_config.WEIGHTS_NAME)
    assert {n: t.numpy().tobytes() for n, t in saved.items()} == {
        n: t.tobytes() for n, t in adapter.tensors.items()
    }


def write_as_mlx_lm(model: Any, config: dict[str, object], folder: Path) -> None:  # noqa: ANN401
    """What ``mlx_lm.lora`` leaves behind after training."""
    folder.mkdir(exist_ok=True)
    mx.save_safetensors(
        str(folder / mlx_folder.WEIGHTS_NAME), dict(tree_flatten(model.trainable_parameters()))
    )
    mlx_lm.utils.save_config(config, folder / mlx_folder.CONFIG_NAME)


@pytest.mark.parametrize("keys", [["self_attn.q_proj", "mlp.up_proj"], None])
def test_an_adapter_that_mlx_lm_made_is_read(tmp_path: Path, keys: list[str] | None) -> None:
    base = tiny_model()
    model = mlx_lm.utils.load(str(base))[0]
    parameters = {"rank": 5, "scale": 20.0, "dropout": 0.0} | ({"keys": keys} if keys else {})
    model.freeze()
    linear_to_lora_layers(model, 1, parameters)
    mx.random.seed(3)
    for name, value in tree_flatten(model.trainable_parameters()):
        model.load_weights([(name, mx.random.normal(value.shape) * 0.02)], strict=False)
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    write_as_mlx_lm(model, config, tmp_path)
    adapter = read_mlx(tmp_path, read_card(base).linears)
    assert len(adapter.modules) == (2 if keys else 7)
    expected = np.array(model(mx.array(TOKENS)))[0]
    np.testing.assert_allclose(ours(base, adapter), expected, atol=2e-3, rtol=2e-4)
    saved = mx.load(str(tmp_path / mlx_folder.WEIGHTS_NAME))
    (tmp_path / "again").mkdir()
    write_mlx(tmp_path / "again", adapter, "tiny")
    again = mx.load(str(tmp_path / "again" / mlx_folder.WEIGHTS_NAME))
    assert {n: np.array(t).tobytes() for n, t in saved.items()} == {
        n: np.array(t).tobytes() for n, t in again.items()
    }


def test_what_mlx_lm_takes_silently_is_refused(tmp_path: Path) -> None:
    base = tiny_model()
    (tmp_path / "mlx").mkdir()
    adapter = random_adapter(read_card(base).linears, tmp_path / "source")
    write_mlx(tmp_path / "mlx", adapter, "tiny")
    weights = tmp_path / "mlx" / mlx_folder.WEIGHTS_NAME
    tensors = mx.load(str(weights))
    tensors.pop("model.layers.0.mlp.up_proj.lora_b")
    mx.save_safetensors(str(weights), tensors)
    mlx_lm.utils.load(str(base), adapter_path=str(tmp_path / "mlx"))
    with pytest.raises(AdapterError, match=r"lacks 1 tensors, first .*0\.mlp\.up_proj\.lora_B"):
        read_mlx(tmp_path / "mlx", read_card(base).linears)


def test_a_canonical_adapter_is_exported_as_the_engine_uses_it(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base")
    schema = schema_for(base)
    model = BACKEND.load(base, threads=1)
    assert isinstance(model, TorchModel)
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema)
    folder = tmp_path / "peft"
    folder.mkdir()
    model.save_adapter(folder / peft_config.WEIGHTS_NAME)
    config = peft_config.peft_config(
        [m.path for m in schema.modules], schema.rank, peft_config.Scaling(schema.alpha), "tiny"
    )
    (folder / peft_config.CONFIG_NAME).write_text(json.dumps(config))
    adapter = read_peft(folder, schema.modules)
    assert adapter.schema == schema
    (tmp_path / "out").mkdir()
    write_peft(tmp_path / "out", adapter, "tiny")
    found = PeftModel.from_pretrained(base_of(base), tmp_path / "out").eval()
    assert_same(logits(found), logits(model._model))
