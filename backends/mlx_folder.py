"""Adapter folders as mlx-lm reads and writes them; neither mlx nor mlx-lm is needed for it.

For a linear layer mlx-lm (0.32) holds ``<path>.lora_a`` (in, r) and ``<path>.lora_b`` (r, out),
both factors transposed; the scale is one literal number. ``keys`` names the adapted layers, in full
or from their block on; ``num_layers`` says for how many of the last blocks the latter are meant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.lora_adapter import (
    LoraAdapter,
    Scaling,
    alpha_for,
    make_adapter,
    read_file,
    write_file,
)
from backends.module_names import by_common_name, common_name, layer_index, mlx_path
from federation.adapter import ModuleShape, tensor_name
from federation.errors import AdapterError
from federation.files import write_atomically

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapters.safetensors"
"""mlx-lm's names of the two files of an adapter folder."""

_FACTORS: tuple[Literal["A"], Literal["B"]] = ("A", "B")
_EXPERTS = (".experts.", ".switch_mlp.", ".block_sparse_moe.")


class _Parameters(BaseModel):
    """mlx-lm's ``lora_parameters``; ``alpha`` and ``rslora`` are ours and mlx-lm ignores them."""

    rank: int = Field(gt=0)
    scale: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    keys: list[str] | None = None
    alpha: float | None = None
    rslora: bool = False

    @property
    def scaling(self) -> Scaling:
        """What the scale was computed from, where the file says that and it is still so."""
        if self.alpha is not None:
            stated = Scaling(self.alpha, self.rslora)
            if stated.factor(self.rank) == self.scale:
                return stated
        return Scaling(alpha_for(self.scale, self.rank))


class _Config(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    fine_tune_type: Literal["lora"] = "lora"
    model: str = ""
    num_layers: int
    lora_parameters: _Parameters

    def targets(self, linears: Sequence[ModuleShape]) -> list[ModuleShape]:
        """Those of ``linears`` that mlx-lm would adapt."""
        blocks = [n for module in linears if (n := layer_index(module.path)) is not None]
        # As mlx-lm has it: 0 and negative numbers mean all.
        first = max(blocks, default=0) + 1 - self.num_layers if self.num_layers > 0 else 0
        return [module for module in linears if self._is_target(module.path, first)]

    def _is_target(self, path: str, first: int) -> bool:
        keys, block = self.lora_parameters.keys, layer_index(path)
        if keys is not None and mlx_path(path) in keys:
            return True
        if block is None or block < first:
            return False
        return keys is None or common_name(path).split(".", 2)[2] in keys


def read_mlx(folder: Path, linears: Sequence[ModuleShape]) -> LoraAdapter:
    """The adapter in an mlx-lm folder, for the base model with these linear layers.

    Raises AdapterError when it is damaged or not complete (mlx-lm itself would take it), fits
    another base, or holds what plain LoRA cannot express.
    """
    config = _read_config(folder / CONFIG_NAME)
    known = by_common_name(module.path for module in linears)
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in read_file(folder / WEIGHTS_NAME).items():
        tensors[_canonical(folder, name, tensor, known)] = np.ascontiguousarray(tensor.T)
    parameters = config.lora_parameters
    try:
        return make_adapter(
            config.targets(linears),
            parameters.rank,
            parameters.scaling,
            tensors,
            parameters.dropout,
            config.model,
        )
    except AdapterError as error:
        raise AdapterError(
            f"{folder}: {error}",
            hint=error.hint or "Is the adapter whole, and for this base model?",
        ) from error


def _read_config(file: Path) -> _Config:
    try:
        return _Config.model_validate_json(file.read_bytes())
    except OSError as error:
        raise AdapterError(f"{file} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise AdapterError(
            f"{file}: {place}: {problem['msg']}.",
            hint="Adapters that mlx-lm trained with fine_tune_type lora can be read.",
        ) from error


def _canonical(folder: Path, name: str, tensor: np.ndarray, known: dict[str, str]) -> str:
    path, _, factor = name.rpartition(".")
    if tensor.ndim == 3 or any(sign in name for sign in _EXPERTS):
        raise AdapterError(
            f"{folder}: {name!r} adapts a mixture of experts, whose layout is another.",
            hint="Adapt the attention layers only.",
        )
    if factor not in ("lora_a", "lora_b") or tensor.ndim != 2:
        reason = "DoRA has a magnitude vector beside the factors" if factor == "m" else "no factor"
        raise AdapterError(
            f"{folder}: {name!r} {tensor.shape} cannot be expressed here: {reason}.",
            hint="Train it with fine_tune_type lora.",
        )
    if (canonical := known.get(common_name(path))) is None:
        raise AdapterError(
            f"{folder} adapts {path!r}, which is no linear layer of this base model.",
            hint="It belongs to another base model, or adapts an embedding or the output head.",
        )
    return tensor_name(canonical, "A" if factor == "lora_a" else "B")


def write_mlx(folder: Path, adapter: LoraAdapter, base_name: str) -> None:
    """Write the two files into ``folder``, which exists, for ``mlx_lm.load(adapter_path=...)``.

    The tensors keep their dtype. Raises AdapterError where mlx-lm has no such layer, StorageError.
    """
    tensors: dict[str, np.ndarray] = {}
    for module in adapter.modules:
        _check_expressible(module.path)
        a, b = (adapter.tensors[tensor_name(module.path, factor)] for factor in _FACTORS)
        tensors[f"{mlx_path(module.path)}.lora_a"] = np.ascontiguousarray(a.T)
        tensors[f"{mlx_path(module.path)}.lora_b"] = np.ascontiguousarray(b.T)
    config = {
        "fine_tune_type": "lora",
        "model": base_name,
        "num_layers": len({layer_index(module.path) for module in adapter.modules}),
        "lora_parameters": {
            "rank": adapter.rank,
            "scale": _scale(adapter.scaling, adapter.rank),
            "dropout": adapter.dropout,
            "keys": [mlx_path(module.path) for module in adapter.modules],
            "alpha": adapter.scaling.alpha,
            "rslora": adapter.scaling.rslora,
        },
    }
    write_file(folder / WEIGHTS_NAME, tensors)
    write_atomically(folder / CONFIG_NAME, json.dumps(config, indent=2).encode())


def _check_expressible(path: str) -> None:
    if any(sign in path for sign in _EXPERTS):
        raise AdapterError(
            f"mlx-lm cannot have {path!r}: it holds all experts of a block in one tensor.",
            hint="Export it as a PEFT folder.",
        )
    if "vision" in path or "audio" in path or "multi_modal" in path:
        raise AdapterError(
            f"mlx-lm cannot have {path!r}: it leaves out all but the language model.",
            hint="Export it as a PEFT folder.",
        )


def _scale(scaling: Scaling, rank: int) -> float:
    """The factor; of those that have the same alpha the one a person would have written."""
    factor = scaling.factor(rank)
    if scaling.rslora:
        return factor
    near = (factor, math.nextafter(factor, math.inf), math.nextafter(factor, 0.0))
    same = [value for value in near if alpha_for(value, rank) == scaling.alpha]
    return min(same, key=lambda value: len(repr(value)), default=factor)
