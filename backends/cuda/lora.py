"""LoRA layers in a loaded model, through peft: injected, filled, frozen, taken out again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from backends.module_names import torch_path
from federation.adapter import AdapterSchema, Factors, tensor_name
from federation.errors import AdapterError

_NAME = "default"


class Lora:
    """The LoRA layers of one schema in ``model``; factors are float32 whatever the base is.

    Raises AdapterError when the model lacks a module of the schema or has another shape for it.
    """

    def __init__(self, model: torch.nn.Module, schema: AdapterSchema, dropout: float) -> None:
        _check_modules(model, schema)
        self.schema = schema
        self.dropout = dropout
        config = LoraConfig(
            r=schema.rank,
            lora_alpha=schema.alpha,
            lora_dropout=dropout,
            target_modules=[torch_path(module.path) for module in schema.modules],
            bias="none",
        )
        with warnings.catch_warnings():
            # About the names of each other's methods, between peft and transformers.
            warnings.simplefilter("ignore", FutureWarning)
            self._peft = get_peft_model(model, config, adapter_name=_NAME)
        layers = {m.path: model.get_submodule(torch_path(m.path)) for m in schema.modules}
        self._dropouts = [layer.lora_dropout[_NAME] for layer in layers.values()]
        parameters: dict[str, torch.nn.Parameter] = {}
        for path, layer in layers.items():
            parameters[tensor_name(path, "A")] = layer.lora_A[_NAME].weight
            parameters[tensor_name(path, "B")] = layer.lora_B[_NAME].weight
        self._parameters = dict(sorted(parameters.items()))
        self.device = next(iter(self._parameters.values())).device
        self.stop_training()

    def fill(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy the adapter's tensors in place; no layer is rebuilt."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(tensors[name].astype(np.float32)))

    def tensors(self) -> dict[str, np.ndarray]:
        """Both factors as float32 arrays, by canonical name."""
        return {
            name: self._parameters[name].detach().to("cpu").numpy() for name in self.schema.shapes()
        }

    def live(self) -> dict[str, torch.nn.Parameter]:
        """The factors that learn at present, by canonical name."""
        return {n: p for n, p in self._parameters.items() if p.requires_grad}

    def start_training(self, factors: Factors) -> list[torch.nn.Parameter]:
        """Let only these factors learn, with dropout on; returns them."""
        for layer in self._dropouts:
            layer.train()
        live = [self._parameters[name] for name in self.schema.shapes(factors)]
        for parameter in live:
            parameter.requires_grad_(True)
        return live

    def stop_training(self) -> None:
        """Freeze everything, dropout off."""
        for layer in self._dropouts:
            layer.eval()
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None

    def remove(self) -> None:
        """Take the layers out; the model is the plain base again."""
        self._peft.unload()


def _check_modules(model: torch.nn.Module, schema: AdapterSchema) -> None:
    found = dict(model.named_modules())
    for module in schema.modules:
        layer = found.get(torch_path(module.path))
        shape = (getattr(layer, "out_features", None), getattr(layer, "in_features", None))
        if shape != (module.outputs, module.inputs):
            raise AdapterError(
                f"The adapter is for {module.path!r} ({module.outputs}, {module.inputs}); "
                f"this base model has {'no such layer' if layer is None else shape} there.",
                hint="The adapter belongs to another base model; see `appliance models list`.",
            )
