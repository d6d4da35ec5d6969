"""The training engines: found by folder, asked what they see, one of them chosen.

A folder here with a ``BACKEND`` object is an engine. Importing this package imports none of
torch, mlx and transformers; an engine does that when it loads a model.
"""

from __future__ import annotations

import os
import pkgutil
from functools import cache
from importlib import import_module

from backends.base import Backend, Probe
from federation.errors import BackendError, ConfigError

# huggingface_hub reads this when it is imported: nothing here may ever reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"

_BEST_FIRST = ("metal", "cuda", "mps", "cpu")
"""Kinds of device, as in ``Probe.device``; of equals the torch engine, which works anywhere."""


@cache
def discover() -> dict[str, Backend]:
    """Every engine by name, whether it can run here or not."""
    folders = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    found: list[Backend] = [import_module(f"{__name__}.{folder}").BACKEND for folder in folders]
    return {backend.name: backend for backend in found}


def probes() -> list[Probe]:
    """What every engine sees on this machine, by name."""
    return [backend.probe() for backend in discover().values()]


def choose(name: str | None = None) -> tuple[Backend, str]:
    """The engine to use and a sentence why.

    Without a name: MLX on Apple Silicon, then CUDA on NVIDIA, then torch on MPS, then the
    processor. Raises ConfigError for an unknown name, BackendError where the named engine, or
    every engine, is unavailable.
    """
    if name is None:
        return _best()
    if name not in discover():
        raise ConfigError(f"There is no engine {name!r}.", hint=f"Known: {', '.join(discover())}.")
    probe = discover()[name].probe()
    if not probe.available:
        raise BackendError(f"The engine {name!r} cannot run here: {probe.reason}")
    return discover()[name], f"{name}, as asked for: {probe.reason}"


def _best() -> tuple[Backend, str]:
    seen = probes()
    usable = [probe for probe in seen if probe.available and not probe.only_by_name]
    if not usable:
        raise BackendError(
            "No training engine can run here: "
            + " ".join(f"{probe.backend}: {probe.reason}" for probe in seen),
            hint="pip install 'fedmed[cuda]', or 'fedmed[mlx]' on Apple Silicon.",
        )
    best = min(usable, key=lambda probe: (_BEST_FIRST.index(probe.device), probe.backend))
    return discover()[best.backend], f"{best.backend}, the best of this machine: {best.reason}"
