"""The adapter against plain peft, and the exactness of taking it out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from backends.cuda import BACKEND
from backends.cuda.model import TorchModel
from backends.lora_adapter import Scaling
from backends.peft_config import CONFIG_NAME, WEIGHTS_NAME, peft_config
from tests.tiny import Architecture, tiny_model
from tests.tiny_training import schema_for, write_random

IDS = torch.tensor([[1, 339, 275, 201, 363, 285]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("alpha", [16.0, 20.5])
def test_plain_peft_loads_what_is_saved(
    tmp_path: Path, architecture: Architecture, alpha: float
) -> None:
    base = tiny_model(architecture)
    schema = schema_for(base, ("q_proj", "down_proj"), alpha=alpha)
    ours = BACKEND.load(base, threads=1)
    assert isinstance(ours, TorchModel)
    ours.attach(write_random(tmp_path / "a.safetensors", schema), schema)
    ours.save_adapter(tmp_path / "peft" / WEIGHTS_NAME)
    paths = [module.path for module in schema.modules]
    config = json.dumps(peft_config(paths, schema.rank, Scaling(schema.alpha), "tiny"))
    (tmp_path / "peft" / CONFIG_NAME).write_text(config)
    plain = AutoModelForCausalLM.from_pretrained(base)
    without = logits(plain)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "peft")
    assert torch.allclose(logits(ours._model), logits(theirs), atol=1e-5)
    assert not torch.allclose(logits(theirs), without, atol=1e-1)


@pytest.mark.parametrize("quantisation", ["none", "nf4", "int8"])
def test_taking_it_out_restores_every_logit(tmp_path: Path, quantisation: str) -> None:
    model = BACKEND.load(tiny_model(dtype="BF16"), quantisation=quantisation, threads=1)
    assert isinstance(model, TorchModel)
    modules = [type(module) for module in model._model.modules()]
    plain = logits(model._model)
    schema = schema_for(tiny_model())
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema, dropout=0.1)
    assert not torch.equal(logits(model._model), plain)
    model.detach()
    assert torch.equal(logits(model._model), plain)
    assert [type(module) for module in model._model.modules()] == modules


def test_a_swap_keeps_the_very_tensors(tmp_path: Path) -> None:
    model = BACKEND.load(tiny_model(), threads=1)
    assert isinstance(model, TorchModel)
    schema = schema_for(tiny_model())
    for seed in (1, 2):
        model.attach(write_random(tmp_path / f"{seed}.safetensors", schema, seed=seed), schema)
        found = {name: p.data_ptr() for name, p in model._model.named_parameters()}
        if seed == 1:
            first = found
    assert found == first


def test_factors_are_float32_on_a_half_precision_base(tmp_path: Path) -> None:
    model = BACKEND.load(tiny_model(dtype="BF16"), threads=1)
    assert isinstance(model, TorchModel)
    schema = schema_for(tiny_model())
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema)
    lora = {p.dtype for name, p in model._model.named_parameters() if "lora" in name}
    assert lora == {torch.float32}
