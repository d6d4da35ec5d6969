"""LoRA layers in a loaded model: put in, filled, trained, taken out again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from backends.cuda.lora_layer import LoraLinear
from backends.module_names import torch_path
from federation.adapter import AdapterSchema, Factors, ModuleShape, tensor_name
from federation.errors import AdapterError


class Lora:
    """The LoRA layers of one schema in ``model``; factors are float32 whatever the base is.

    Raises AdapterError when the model lacks a module of the schema or has another shape for it.
    """

    def __init__(self, model: torch.nn.Module, schema: AdapterSchema, dropout: float) -> None:
        _check_modules(model, schema)
        self.schema = schema
        self.dropout = dropout
        self._model = model
        self._plain = {p: model.get_submodule(p) for p in map(_torch_path, schema.modules)}
        scale = schema.alpha / schema.rank
        self._layers: list[LoraLinear] = []
        parameters: dict[str, torch.nn.Parameter] = {}
        for module in schema.modules:
            path, shape = _torch_path(module), (module.outputs, module.inputs)
            layer = LoraLinear(self._plain[path], shape, schema.rank, scale, dropout)
            model.set_submodule(path, layer)
            self._layers.append(layer)
            parameters[tensor_name(module.path, "A")] = layer.lora_A
            parameters[tensor_name(module.path, "B")] = layer.lora_B
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
        for layer in self._layers:
            layer.dropout.train()
        live = [self._parameters[name] for name in self.schema.shapes(factors)]
        for parameter in live:
            parameter.requires_grad_(True)
        return live

    def stop_training(self) -> None:
        """Freeze everything, dropout off."""
        for layer in self._layers:
            layer.dropout.eval()
        for parameter in self._parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None

    def remove(self) -> None:
        """Take the layers out; the model is the plain base again."""
        for path, layer in self._plain.items():
            self._model.set_submodule(path, layer)


def _torch_path(module: ModuleShape) -> str:
    return torch_path(module.path)


def _check_modules(model: torch.nn.Module, schema: AdapterSchema) -> None:
    found = dict(model.named_modules())
    for module in schema.modules:
        layer = found.get(_torch_path(module))
        shape = (getattr(layer, "out_features", None), getattr(layer, "in_features", None))
        if shape != (module.outputs, module.inputs):
            raise AdapterError(
                f"The adapter is for {module.path!r} ({module.outputs}, {module.inputs}); "
                f"this base model has {'no such layer' if layer is None else shape} there.",
                hint="The adapter belongs to another base model; see `appliance models list`.",
            )
