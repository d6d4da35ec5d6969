"""The canonical LoRA adapter: PEFT's key layout in safetensors, described by a schema.

For a linear layer at ``path`` with ``out`` outputs and ``in`` inputs an adapter of rank r holds

    base_model.model.<path>.lora_A.weight   (r, in)
    base_model.model.<path>.lora_B.weight   (out, r)

and the layer's update is Delta W = (alpha / r) B A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from federation.canonical import Message
from federation.errors import AdapterError

Factors = Literal["AB", "A", "B"]
"""Which LoRA factors a round trains and sends."""

PREFIX = "base_model.model."


def tensor_name(path: str, factor: Literal["A", "B"]) -> str:
    """PEFT's name of one factor of the linear layer at ``path``."""
    return f"{PREFIX}{path}.lora_{factor}.weight"


def module_path(name: str) -> str:
    """The path of the linear layer that a tensor belongs to: what ``tensor_name`` was given."""
    return name.removeprefix(PREFIX).rpartition(".lora_")[0]


class ModuleShape(Message):
    """One adapted linear layer of the base model."""

    path: str = Field(min_length=1, max_length=300, pattern=r"^[A-Za-z0-9_.]+$")
    inputs: int = Field(gt=0, le=1 << 20)
    outputs: int = Field(gt=0, le=1 << 20)


class AdapterSchema(Message):
    """What an adapter of this federation looks like.

    ``rank`` is the largest rank a hospital may send; the scale of an update of rank r is
    ``alpha / r``. The modules are sorted by path and distinct.
    """

    modules: tuple[ModuleShape, ...] = Field(min_length=1, max_length=10_000)
    rank: int = Field(gt=0, le=1024)
    alpha: float = Field(gt=0)

    @model_validator(mode="after")
    def _sorted_and_distinct(self) -> AdapterSchema:
        paths = [module.path for module in self.modules]
        if paths != sorted(set(paths)):
            raise ValueError("modules must be sorted by path and distinct")
        if any(".lora_" in f".{path}" for path in paths):
            # In the order of names, A and B of a module are neighbours: others rely on it.
            raise ValueError("a module's path must not have a part that begins with lora_")
        return self

    def shapes(
        self, factors: Factors = "AB", rank: int | None = None
    ) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape of an adapter of ``rank``, sorted by name."""
        r = rank or self.rank
        shapes: dict[str, tuple[int, ...]] = {}
        for module in self.modules:
            if "A" in factors:
                shapes[tensor_name(module.path, "A")] = (r, module.inputs)
            if "B" in factors:
                shapes[tensor_name(module.path, "B")] = (module.outputs, r)
        return dict(sorted(shapes.items()))

    def n_parameters(self, factors: Factors = "AB", rank: int | None = None) -> int:
        """Number of scalars in an adapter of ``rank``."""
        return sum(math.prod(shape) for shape in self.shapes(factors, rank).values())


def check_layout(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse missing, extra and mis-shaped tensors, naming the first few. Raises AdapterError."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    wrong = sorted(n for n in expected.keys() & found.keys() if expected[n] != found[n])
    for kind, names in (("lacks", missing), ("has unexpected", extra)):
        if names:
            raise AdapterError(f"The adapter {kind} {len(names)} tensors, first {names[0]!r}.")
    if wrong:
        name = wrong[0]
        raise AdapterError(f"Tensor {name!r} has shape {found[name]}, not {expected[name]}.")


def checked_tensors(
    tensors: Iterator[tuple[str, np.ndarray]], *, max_norm: float | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Pass tensors through; refuse non-finite values and a total L2 norm above ``max_norm``.

    The norm is over all tensors together, in float64. Raises AdapterError at the offending
    tensor, or after the last one for the norm.
    """
    squared = 0.0

    def check(entry: tuple[str, np.ndarray]) -> tuple[str, np.ndarray]:
        nonlocal squared
        name, tensor = entry
        flat = tensor.astype(np.float64, copy=False).ravel()
        own = float(flat @ flat)
        # Finite squares of float32 values, however many, sum to a finite float64.
        if not math.isfinite(own):
            raise AdapterError(f"Tensor {name!r} holds a value that is not finite.")
        squared += own
        return entry

    # A loop's variables would keep each hospital's last tensor while others are read.
    yield from map(check, tensors)
    if max_norm is not None and math.sqrt(squared) > max_norm:
        raise AdapterError(
            f"The adapter's norm {math.sqrt(squared):.3g} is above the bound {max_norm:.3g}."
        )


def initial_adapter(schema: AdapterSchema, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The adapter a federation starts from: A Kaiming-uniform (a = sqrt 5, as PEFT), B zero.

    float32, in name order, the same bytes for the same schema and seed (PCG64, one stream a
    tensor), so that every hospital starts from equal A and Delta W = 0.
    """
    for index, (name, shape) in enumerate(schema.shapes().items()):
        if ".lora_B." in name:
            yield name, np.zeros(shape, dtype=np.float32)
        else:
            bound = 1.0 / math.sqrt(shape[1])
            stream = np.random.Generator(np.random.PCG64([seed, index]))
            yield name, stream.uniform(-bound, bound, shape).astype(np.float32)
