"""A LoRA adapter with its scale, between the formats of PEFT, mlx-lm and the federation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from federation.adapter import AdapterSchema, ModuleShape, check_layout, checked_tensors
from federation.errors import AdapterError
from federation.files import atomic_writer
from federation.tensors import read_header, read_tensors, write_tensors


@dataclass(frozen=True)
class Scaling:
    """What B A is multiplied by: alpha / rank, or alpha / sqrt(rank) for rsLoRA.

    Source of the latter: Kalajdzievski, arXiv 2312.03732.
    """

    alpha: float
    rslora: bool = False

    def factor(self, rank: int) -> float:
        """The factor for adapters of ``rank``, computed as PEFT does."""
        return self.alpha / (math.sqrt(rank) if self.rslora else rank)


def alpha_for(factor: float, rank: int) -> float:
    """The alpha whose alpha / rank is ``factor``, or nearest to it where rounding leaves none."""
    product = factor * rank
    near = (product, math.nextafter(product, math.inf), math.nextafter(product, 0.0))
    return min(near, key=lambda alpha: abs(alpha / rank - factor))


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter by canonical tensor name, in the dtype it came in, and how it is scaled.

    ``modules`` are the adapted layers of the base model, sorted by path. ``dropout`` matters to
    who trains it further; ``trained_on`` is the base model as the source calls it, if it does.
    """

    modules: tuple[ModuleShape, ...]
    rank: int
    scaling: Scaling
    tensors: Mapping[str, np.ndarray]
    dropout: float = 0.0
    trained_on: str = ""

    @property
    def schema(self) -> AdapterSchema:
        """The federation's schema of it, with the alpha that gives the same factor.

        Raises AdapterError where the federation has no such adapter.
        """
        scaling = self.scaling
        alpha = alpha_for(scaling.factor(self.rank), self.rank) if scaling.rslora else scaling.alpha
        try:
            return AdapterSchema(modules=self.modules, rank=self.rank, alpha=float(alpha))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise AdapterError(f"The adapter's {place} cannot be: {problem['msg']}.") from error


def make_adapter(
    modules: Iterable[ModuleShape],
    rank: int,
    scaling: Scaling,
    tensors: Mapping[str, np.ndarray],
    dropout: float,
    trained_on: str,
) -> LoraAdapter:
    """The adapter, checked: its tensors are exactly those of ``modules``, finite, of one dtype.

    Raises AdapterError.
    """
    ordered = tuple(sorted(modules, key=lambda module: module.path))
    adapter = LoraAdapter(ordered, rank, scaling, tensors, dropout, trained_on)
    check_layout({name: t.shape for name, t in tensors.items()}, adapter.schema.shapes())
    if len(dtypes := {tensor.dtype.name for tensor in tensors.values()}) > 1:
        raise AdapterError(
            f"The adapter's tensors have several dtypes: {', '.join(sorted(dtypes))}.",
            hint="Save it again in one of them.",
        )
    for _ in checked_tensors(iter(tensors.items())):
        pass
    return adapter


def read_file(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file. Raises AdapterError when it is damaged or missing."""
    try:
        with path.open("rb") as file:
            return dict(read_tensors(file, read_header(file)))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}.") from error
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}", hint=error.hint) from error


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors of one dtype, durably, in name order. Raises StorageError."""
    names = sorted(tensors)
    with atomic_writer(path) as file:
        write_tensors(
            file,
            {name: tensors[name].shape for name in names},
            ((name, tensors[name]) for name in names),
            tensors[names[0]].dtype,
        )
