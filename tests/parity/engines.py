"""The same job on both engines, and what it gives, in the canonical adapter's names and layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from backends import discover
from backends.base import (
    EvalStep,
    Example,
    LoadedModel,
    Note,
    Quantisation,
    Resumed,
    TrainJob,
    TrainStep,
)
from backends.cuda.model import TorchModel
from backends.cuda.training import TorchEngine
from backends.mlx.model import MlxModel
from backends.mlx.training import MlxEngine
from backends.training import Training
from federation.adapter import AdapterSchema
from tests.tiny import Architecture

Tensors = dict[str, np.ndarray]

MODELS: tuple[tuple[Architecture, bool], ...] = (
    ("llama", False),
    ("llama", True),
    ("mistral", False),
    ("qwen2", False),
    ("qwen2", True),
    ("qwen3", False),
    ("gemma2", True),
    ("gemma3_text", False),
    ("gemma3_text", True),
    ("phi", False),
    ("phi3", False),
    ("phi3", True),
)
"""Every architecture that is tested, with an output head of its own or the embedding's (tied)."""


def quiet(_: TrainStep | EvalStep | Resumed | Note) -> None:
    """No progress wanted."""


def load(name: str, base: Path, quantisation: Quantisation = "none") -> LoadedModel:
    return discover()[name].load(base, quantisation=quantisation, threads=1)


@dataclass(frozen=True)
class Pair:
    """One base model in float32 on both engines."""

    torch: LoadedModel
    mlx: LoadedModel

    @classmethod
    def of(cls, base: Path) -> Pair:
        return cls(load("cuda", base), load("mlx", base))

    def attach(self, adapter: Path, schema: AdapterSchema) -> None:
        for model in (self.torch, self.mlx):
            model.attach(adapter, schema)


def losses(model: LoadedModel, examples: list[Example]) -> np.ndarray:
    return np.array([loss.loss for loss in model.losses(examples)])


def gradients(model: LoadedModel, job: TrainJob, batches: list[tuple[int, ...]]) -> Tensors:
    """Of every LoRA factor, by canonical name and in canonical layout."""
    if isinstance(model, TorchModel):
        assert model._lora is not None
        engine = TorchEngine(model._model, model._lora, job, keep_threads=True)
        Training(engine, job, quiet, {}).accumulate(batches)
        captured = engine.capture(gradients=True)
        model._lora.stop_training()
        return _gradients(captured)
    assert isinstance(model, MlxModel)
    assert model._lora is not None
    mlx = MlxEngine(model._model, model._head, model._lora, job)
    Training(mlx, job, quiet, {}).accumulate(batches)
    return {name: tensor.T for name, tensor in _gradients(mlx.capture(gradients=True)).items()}


def _gradients(captured: Mapping[str, np.ndarray]) -> Tensors:
    prefix = "gradient."
    return {n.removeprefix(prefix): t for n, t in captured.items() if n.startswith(prefix)}


def trained(model: LoadedModel, job: TrainJob, target: Path) -> Tensors:
    """The adapter after the job."""
    model.train(job, quiet)
    model.save_adapter(target)
    return load_file(target)


def farthest(found: Tensors, expected: Tensors) -> float:
    """Largest relative distance of any tensor, by its L2 norm. They must have the same names."""
    assert found.keys() == expected.keys()
    return max(
        float(np.linalg.norm(found[name] - tensor) / np.linalg.norm(tensor))
        for name, tensor in expected.items()
    )
