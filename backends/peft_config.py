"""PEFT's ``adapter_config.json``: written for our adapters, and read with nothing overlooked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backends.lora_adapter import Scaling
from backends.module_names import layer_index, torch_path
from federation.adapter import ModuleShape
from federation.errors import AdapterError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
"""PEFT's names of the two files of an adapter folder."""

_NO_MEANING_HERE = {
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
}
"""Fields that say nothing of what the tensors compute: origin, or details of a field that is read.
Any other field that is set is refused, those that a later PEFT will bring among them."""

_REASONS = {
    "use_dora": "DoRA has a magnitude vector beside the factors",
    "modules_to_save": "whole layers were trained beside the factors",
    "rank_pattern": "modules have ranks of their own",
    "alpha_pattern": "modules have alphas of their own",
    "lora_bias": "the factors have biases",
    "fan_in_fan_out": "the base's layers are transposed (Conv1D)",
    "target_parameters": "it adapts parameters instead of layers, as mixture-of-experts do",
    "trainable_token_indices": "embeddings of some tokens were trained",
    "layer_replication": "layers of the base are repeated",
}


class PeftConfig(BaseModel):
    """The fields of PEFT's ``LoraConfig`` that an adapter of this federation can express."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: str | None = None
    r: int = Field(gt=0)
    lora_alpha: float = Field(gt=0)
    use_rslora: bool = False
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    bias: Literal["none"] = "none"
    # Others (PiSSA, OLoRA, CorDA, LoftQ) change the base too.
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "eva"] = True
    target_modules: str | list[str]
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None

    @property
    def scaling(self) -> Scaling:
        """How B A is scaled."""
        return Scaling(self.lora_alpha, self.use_rslora)

    def targets(self, linears: Sequence[ModuleShape]) -> list[ModuleShape]:
        """Those of ``linears`` that PEFT would adapt."""
        # Adapters from before transformers 4.52 have the checkpoint's names.
        return [
            m for m in linears if self._is_target(torch_path(m.path)) or self._is_target(m.path)
        ]

    def _is_target(self, path: str) -> bool:
        if self.exclude_modules and _matches(path, self.exclude_modules):
            return False
        if self.target_modules != "all-linear" and not _matches(path, self.target_modules):
            return False
        layers = self.layers_to_transform
        wanted = {layers} if isinstance(layers, int) else set(layers or ())
        return not wanted or layer_index(path) in wanted


def _matches(path: str, targets: str | list[str]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(path == target or path.endswith(f".{target}") for target in targets)


def read_config(file: Path) -> PeftConfig:
    """The configuration. Raises AdapterError when something in it cannot be expressed."""
    try:
        config = PeftConfig.model_validate_json(file.read_bytes())
        if isinstance(config.target_modules, str):
            re.compile(config.target_modules)
    except OSError as error:
        raise AdapterError(f"{file} cannot be read: {error.strerror}.") from error
    except re.error as error:
        raise AdapterError(f"{file}: target_modules is no regular expression: {error}.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise AdapterError(
            f"{file}: {place}: {problem['msg']}.",
            hint="Plain LoRA and rsLoRA of causal language models can be read.",
        ) from error
    for field, value in (config.model_extra or {}).items():
        if value and field not in _NO_MEANING_HERE:
            reason = _REASONS.get(field, "this version does not know what it means")
            raise AdapterError(
                f"{file}: {field} is set, so the adapter cannot be expressed here: {reason}.",
                hint="Train it as plain LoRA or rsLoRA on linear layers.",
            )
    return config


def peft_config(
    modules: Sequence[str], rank: int, scaling: Scaling, base_name: str, dropout: float = 0.0
) -> dict[str, Any]:
    """What PEFT (0.5 and later) must know beside the tensors, ready for ``json.dumps``.

    ``modules`` are the adapted layers' full paths.
    """
    alpha = int(scaling.alpha) if float(scaling.alpha).is_integer() else scaling.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": list(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": scaling.rslora,
        "inference_mode": True,
    }
