"""Adapter folders as PEFT reads and writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backends.lora_adapter import LoraAdapter, make_adapter, read_file, write_file
from backends.module_names import by_common_name, common_name, torch_path
from backends.peft_config import CONFIG_NAME, WEIGHTS_NAME, peft_config, read_config
from federation.adapter import PREFIX, ModuleShape, tensor_name
from federation.errors import AdapterError
from federation.files import write_atomically

_FACTOR = re.compile(re.escape(PREFIX) + r"(?P<path>.+)\.lora_(?P<factor>[AB])\.weight")
_OTHERS = {
    ".lora_embedding_": "an embedding is adapted",
    ".lora_magnitude_vector": "DoRA has a magnitude vector beside the factors",
    ".modules_to_save.": "whole layers were trained beside the factors",
    ".base_layer.": "weights of the base model were trained too",
    ".bias": "it has biases",
}


def read_peft(folder: Path, linears: Sequence[ModuleShape]) -> LoraAdapter:
    """The adapter in a PEFT folder, for the base model with these linear layers.

    Raises AdapterError when it is damaged or not complete, fits another base, or holds what plain
    LoRA and rsLoRA cannot express.
    """
    config = read_config(folder / CONFIG_NAME)
    if not (folder / WEIGHTS_NAME).is_file() and (folder / "adapter_model.bin").is_file():
        raise AdapterError(
            f"{folder} holds a pickle, which could run any program when it is read.",
            hint="Save the adapter as safetensors: PEFT's save_pretrained does by default.",
        )
    found = read_file(folder / WEIGHTS_NAME)
    known = by_common_name(module.path for module in linears)
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in found.items():
        tensors[_canonical(folder, name, known)] = tensor
    if len(tensors) < len(found):
        raise AdapterError(f"{folder} names a layer of the base model in two ways.")
    try:
        return make_adapter(
            config.targets(linears),
            config.r,
            config.scaling,
            tensors,
            config.lora_dropout,
            config.base_model_name_or_path or "",
        )
    except AdapterError as error:
        raise AdapterError(
            f"{folder}: {error}",
            hint=error.hint or "Is the adapter whole, and for this base model?",
        ) from error


def _canonical(folder: Path, name: str, known: dict[str, str]) -> str:
    for sign, reason in _OTHERS.items():
        if sign in name:
            raise AdapterError(
                f"{folder}: {name!r} cannot be expressed here: {reason}.",
                hint="Train it as plain LoRA or rsLoRA on linear layers.",
            )
    if not (found := _FACTOR.fullmatch(name)):
        raise AdapterError(f"{folder}: {name!r} is not PEFT's name of a LoRA factor.")
    if (path := known.get(common_name(found["path"]))) is None:
        raise AdapterError(
            f"{folder} adapts {found['path']!r}, which is no linear layer of this base model.",
            hint="It belongs to another base model, or adapts an embedding or the output head.",
        )
    return tensor_name(path, "A" if found["factor"] == "A" else "B")


def write_peft(folder: Path, adapter: LoraAdapter, base_name: str) -> None:
    """Write the two files into ``folder``, which exists; layers as transformers 5 names them.

    ``peft.PeftModel.from_pretrained`` loads it, also on machines without FedMed. The tensors keep
    their dtype and bytes. Raises StorageError.
    """
    names = {
        tensor_name(module.path, factor): tensor_name(torch_path(module.path), factor)
        for module in adapter.modules
        for factor in ("A", "B")
    }
    write_file(folder / WEIGHTS_NAME, {names[n]: t for n, t in adapter.tensors.items()})
    paths = [torch_path(module.path) for module in adapter.modules]
    config = peft_config(paths, adapter.rank, adapter.scaling, base_name, adapter.dropout)
    write_atomically(folder / CONFIG_NAME, json.dumps(config, indent=2).encode())
