"""LoRA layers in a loaded model: mlx-lm's, put in, filled, trained, taken out again.

mlx-lm keeps the factors turned: ``lora_a`` (inputs, r) and ``lora_b`` (r, outputs), with one
literal scale in place of alpha / r.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.tuner.lora import LoRALinear

from federation.adapter import AdapterSchema, Factors, tensor_name
from federation.errors import AdapterError

Arrays = dict[str, mx.array]
"""Factors by canonical name, turned as mlx-lm has them."""


class Lora:
    """The LoRA layers of one schema in ``model``; factors are float32 whatever the base is.

    ``names`` gives the module's path in mlx-lm's tree for a canonical one. Raises AdapterError
    when the model lacks a module of the schema or has another shape for it.
    """

    def __init__(
        self, model: nn.Module, names: Mapping[str, str], schema: AdapterSchema, dropout: float
    ) -> None:
        self._model = model
        self.schema = schema
        self.dropout = dropout
        self._plain = _find(model, names, schema)
        scale = schema.alpha / schema.rank
        layers = {
            path: LoRALinear.from_base(linear, r=schema.rank, scale=scale)
            for path, linear in self._plain.items()
        }
        self._dropouts = [KeyedDropout(dropout) for _ in layers]
        self._places: dict[str, tuple[LoRALinear, str]] = {}
        for module, layer, drop in zip(
            schema.modules, layers.values(), self._dropouts, strict=True
        ):
            layer.dropout = drop
            self._places[tensor_name(module.path, "A")] = layer, "lora_a"
            self._places[tensor_name(module.path, "B")] = layer, "lora_b"
        model.update_modules(tree_unflatten(list(layers.items())))
        model.freeze()

    def fill(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Put the adapter's tensors in; no layer is rebuilt."""
        turned = {name: mx.array(tensors[name].astype(np.float32).T) for name in self._places}
        mx.eval(turned)
        self.put(turned)

    def tensors(self) -> dict[str, np.ndarray]:
        """Both factors as float32 arrays, by canonical name and in canonical layout."""
        return {
            name: np.ascontiguousarray(np.array(array).T)
            for name, array in self.arrays("AB").items()
        }

    def arrays(self, factors: Factors) -> Arrays:
        """These factors as the layers have them, in the schema's order."""
        names = self.schema.shapes(factors)
        return {name: getattr(*self._places[name]) for name in names}

    def arrays_in(self, module: nn.Module) -> Arrays:
        """The factors of the LoRA layers inside ``module``."""
        inside = {id(found) for found in module.modules()}
        return {
            name: getattr(layer, factor)
            for name, (layer, factor) in self._places.items()
            if id(layer) in inside
        }

    def put(self, arrays: Arrays) -> None:
        """Replace these factors."""
        for name, array in arrays.items():
            layer, factor = self._places[name]
            setattr(layer, factor, array)

    @contextmanager
    def holding(self, arrays: Arrays) -> Iterator[None]:
        """Compute with other factors; inside a traced function these are its placeholders."""
        before = {name: getattr(*self._places[name]) for name in arrays}
        self.put(arrays)
        try:
            yield
        finally:
            self.put(before)

    @contextmanager
    def dropping(self, key: mx.array) -> Iterator[None]:
        """Dropout on, by a random key: the same key drops the same inputs."""
        keys = mx.random.split(key, len(self._dropouts))
        for index, layer in enumerate(self._dropouts):
            layer.set_key(keys[index])
        try:
            yield
        finally:
            for layer in self._dropouts:
                layer.set_key(None)

    def remove(self) -> None:
        """Take the layers out; the model is the plain base again."""
        self._model.update_modules(tree_unflatten(list(self._plain.items())))


class KeyedDropout(nn.Module):
    """Dropout that is on while it has a key, and whose mask depends on that key alone.

    With MLX's own, a layer that is computed again in the backward pass draws another mask.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self._kept = 1.0 - p
        self._key: mx.array | None = None

    def set_key(self, key: mx.array | None) -> None:
        """None turns it off."""
        self._key = key

    def __call__(self, x: mx.array) -> mx.array:
        """``x``, some of it zero and the rest larger; unchanged while there is no key."""
        if self._key is None or self._kept == 1.0:
            return x
        return mx.random.bernoulli(self._kept, x.shape, key=self._key) * x * (1.0 / self._kept)


def _find(
    model: nn.Module, names: Mapping[str, str], schema: AdapterSchema
) -> dict[str, nn.Module]:
    found, plain = dict(model.named_modules()), {}
    for module in schema.modules:
        path = names.get(module.path, module.path)
        layer = found.get(path)
        shape = _shape(layer)
        if layer is None or shape != (module.outputs, module.inputs):
            raise AdapterError(
                f"The adapter is for {module.path!r} ({module.outputs}, {module.inputs}); "
                f"this base model has {'no such layer' if layer is None else shape} there.",
                hint="The adapter belongs to another base model; see `appliance models list`.",
            )
        plain[path] = layer
    return plain


def _shape(layer: nn.Module | None) -> tuple[int | None, int | None]:
    """Outputs and inputs of a linear layer, quantised or not."""
    if isinstance(layer, nn.QuantizedLinear):
        return layer.weight.shape[0], layer.weight.shape[1] * 32 // layer.bits
    if isinstance(layer, nn.Linear):
        return layer.weight.shape[0], layer.weight.shape[1]
    return None, None
