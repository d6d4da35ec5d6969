"""The output head, fed with the wanted positions only.

A vocabulary is wide: logits of prompts and padding would cost more memory than the rest of the
pass. While a batch goes through, a stand-in in the head's place keeps the wanted hidden states, so
that whatever a model does to its logits afterwards (scaling, soft caps) still happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from federation.errors import ModelError

_KINDS = (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)


class Head:
    """Where ``model`` makes its logits: a linear layer, or the embedding where weights are tied.

    It is the module in whose stead the stand-in shortens the logits; nothing is computed to find
    it. Raises ModelError where there is none.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        logits = model(_ids(3))
        width = logits.shape[-1]
        self.dtype = str(logits.dtype).removeprefix("mlx.core.")
        """The numbers that the model computes in, such as bfloat16."""
        for path, module in model.named_modules():
            if isinstance(module, _KINDS) and module.weight.shape[0] == width:
                self.path = path
                if self.logits(_ids(3), mx.array([1])).shape == (1, width):
                    return
        raise ModelError(
            f"The output head of this {model.model_type} model cannot be found.",
            hint='Use the torch engine ([engine] backend = "cuda").',
        )

    def logits(self, ids: mx.array, places: mx.array, cache: list[Any] | None = None) -> mx.array:
        """Logits (n, vocabulary) float32 at the flat positions ``places`` (n,) of ``ids``."""
        with self._shortened(places):
            return self._model(ids, cache=cache)[0].astype(mx.float32)

    @contextmanager
    def _shortened(self, places: mx.array) -> Iterator[None]:
        *parents, name = self.path.split(".")
        parent: Any = self._model
        for part in parents:
            parent = parent[int(part)] if part.isdigit() else parent[part]
        module = parent[name]
        setattr(parent, name, _Shortening(module, places))
        try:
            yield
        finally:
            setattr(parent, name, module)


class _Shortening(nn.Module):
    """Stands in for a linear layer, or for an embedding that is used as one."""

    def __init__(self, module: nn.Module, places: mx.array) -> None:
        super().__init__()
        self._module, self._places = module, places

    def __call__(self, x: mx.array) -> mx.array:
        if isinstance(self._module, (nn.Embedding, nn.QuantizedEmbedding)):
            return self._module(x)
        return self._module(self._wanted(x))

    def as_linear(self, x: mx.array) -> mx.array:
        return self._module.as_linear(self._wanted(x))

    def _wanted(self, hidden: mx.array) -> mx.array:
        return hidden.reshape(-1, hidden.shape[-1])[self._places][None]


def _ids(n: int) -> mx.array:
    return mx.zeros((1, n), dtype=mx.int32)
