"""Whole modules of all hospitals side by side, for methods that need B and A together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.aggregation._types import Inputs, Tensors, Update
from federation.adapter import module_path
from federation.errors import AdapterError


@dataclass(frozen=True)
class Pair:
    """One module's update in an adapter: scale * b @ a; b (out, r), a (r, in), float32."""

    b: np.ndarray
    a: np.ndarray
    scale: float


@dataclass(frozen=True)
class Module:
    """One adapted layer; a factor that an update does not hold is the parent's, frozen."""

    path: str
    parent: Pair
    updates: Mapping[str, Pair]


class _Stream:
    """An update's tensors with one looked ahead."""

    def __init__(self, update: Update, alpha: float) -> None:
        self.scale = alpha / update.rank
        self._tensors = update.tensors()
        self.head = next(self._tensors, None)

    def take(self, name: str, frozen: np.ndarray) -> np.ndarray:
        if self.head is None or self.head[0] != name:
            return frozen
        tensor = self.head[1]
        self.head = next(self._tensors, None)
        return tensor


def modules(inputs: Inputs) -> Iterator[Module]:
    """Every module in the order of its tensors' names; those of one module are in memory.

    Raises AdapterError where the updates do not hold the same tensors of the parent.
    """
    schema = inputs.schema
    streams = {u.hospital: _Stream(u, schema.alpha) for u in inputs.updates}
    parent = inputs.parent()
    # A schema's paths are such that A and B of a module are neighbours.
    for (name_a, a), (name_b, b) in zip(parent, parent, strict=True):
        _check_same(streams, name_a)
        taken_a = {name: stream.take(name_a, a) for name, stream in streams.items()}
        _check_same(streams, name_b)
        taken_b = {name: stream.take(name_b, b) for name, stream in streams.items()}
        yield Module(
            module_path(name_a),
            Pair(b, a, schema.alpha / schema.rank),
            {name: Pair(taken_b[name], taken_a[name], s.scale) for name, s in streams.items()},
        )
    for stream in streams.values():
        if stream.head is not None:
            raise AdapterError(f"An update holds {stream.head[0]!r}, which the parent does not.")


def _check_same(streams: Mapping[str, _Stream], name: str) -> None:
    holding = {s.head is not None and s.head[0] == name for s in streams.values()}
    if len(holding) > 1:
        raise AdapterError(f"Tensor {name!r} is in one update but not in another.")


def only(inputs: Inputs, weights: Mapping[str, float]) -> Inputs:
    """The same with those updates alone that have a weight: the others are not read."""
    kept = tuple(u for u in inputs.updates if weights[u.hospital] > 0)
    return Inputs(inputs.schema, inputs.parent, kept)


def parent_beside(means: Tensors, parent: Tensors) -> Tensors:
    """A whole adapter: the means where there are, and the parent's tensors, byte for byte."""
    live = next(means, None)
    for name, frozen in parent:
        if live is not None and live[0] == name:
            yield live
            live = next(means, None)
        else:
            yield name, frozen
