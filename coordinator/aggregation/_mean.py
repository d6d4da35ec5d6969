"""Weighted means of tensors, streamed: shared by the linear combiners."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from coordinator.aggregation._types import Inputs, Tensors
from federation.errors import AdapterError


def parent_weight(weights: Mapping[str, float]) -> float:
    """What is left of 1 for the parent; 0 where only rounding is left."""
    left = 1 - math.fsum(weights.values())
    return left if left > 1e-12 else 0.0


def weighted_mean(inputs: Inputs, weights: Mapping[str, float]) -> Tensors:
    """Each tensor that the updates hold: float32 of the sum in float64, in hospital-id order.

    What the weights leave of 1 is the parent's, added last. Updates of weight 0 are not read. One
    tensor of one hospital is in memory beside the sum. Raises AdapterError where updates hold
    different tensors or the mean is not finite.
    """
    streams = [
        (weights[update.hospital], update.tensors())
        for update in inputs.updates
        if weights[update.hospital] > 0
    ]
    left = parent_weight(weights)
    parent = inputs.parent() if left else iter(())
    (first_weight, first), *others = streams
    scratch = np.empty(0)
    for name, tensor in first:
        total = tensor.astype(np.float64)
        total *= first_weight
        if scratch.size < total.size:
            scratch = np.empty(total.size)
        scaled = scratch[: total.size].reshape(total.shape)
        for weight, stream in others:
            # Widening first is faster than a product of mixed types.
            np.copyto(scaled, _next(stream, name))
            scaled *= weight
            total += scaled
        if left:
            total += left * next(t for n, t in parent if n == name).astype(np.float64)
        yield name, finite(name, total)
    for _, stream in others:
        # Runs each stream to its end, where its digest and norm are checked.
        if (extra := next(stream, None)) is not None:
            raise AdapterError(f"Tensor {extra[0]!r} is in one update but not in another.")


def finite(name: str, tensor: np.ndarray) -> np.ndarray:
    """A result as float32. Raises AdapterError unless all of it is finite."""
    with np.errstate(over="ignore"):
        single = tensor.astype(np.float32)
    if not np.isfinite(single).all():
        raise AdapterError(f"The aggregate of tensor {name!r} is not finite in float32.")
    return single


def _next(stream: Tensors, name: str) -> np.ndarray:
    found, tensor = next(stream, ("nothing", np.empty(0)))
    if found != name:
        raise AdapterError(f"An update holds {found!r} where another holds {name!r}.")
    return tensor
