"""What the MLX engine finds here; mlx itself is not imported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from backends.base import Probe, Quantisation
from backends.memory import free_bytes, ram_bytes

_NEEDED = ("mlx", "mlx_lm", "transformers")

QUANTISATIONS: tuple[Quantisation, ...] = ("none", "affine4", "affine8")

FORWARD_TOKENS = {"metal": 4096, "cpu": 1024}
"""Padded tokens in one forward pass of a training, by kind of device."""


def device() -> str:
    """``metal`` on Apple Silicon, ``cpu`` elsewhere."""
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return "metal" if apple else "cpu"


def probe() -> Probe:
    """Device, version and memory. Never raises."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return Probe(
            backend="mlx",
            available=False,
            reason=f"{', '.join(missing)} not installed; pip install 'fedmed[mlx]'.",
        )
    found, memory = device(), ram_bytes()
    words = (
        f"Apple's GPU through Metal, {memory / 2**30:.0f} GiB of shared memory"
        if found == "metal"
        else "the processor: exact but slow, for tests; used only when asked for by name"
    )
    mlx_version = _version()
    return Probe(
        backend="mlx",
        available=True,
        only_by_name=found == "cpu",
        reason=f"mlx {mlx_version} on {words}.",
        device=found,
        engine="mlx",
        version=mlx_version,
        memory_bytes=memory,
        free_bytes=free_bytes(),
        forward_tokens=FORWARD_TOKENS[found],
        quantisations=QUANTISATIONS,
    )


def _version() -> str:
    try:
        return version("mlx")
    except PackageNotFoundError:
        return "of unknown version"
