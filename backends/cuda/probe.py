"""What the torch engine finds here; torch itself is imported only where a GPU may be."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from backends.base import Probe, Quantisation
from backends.memory import free_bytes, ram_bytes

_NEEDED = ("torch", "transformers", "accelerate")

FORWARD_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 8192}
"""Padded tokens in one forward pass of a training, by device type.

Activations take memory by the token (SmolLM2-135M: 2.3 MB); a larger batch is cut into several
passes with the same gradients. A processor gains no speed from wide passes, a GPU does.
"""


def probe() -> Probe:
    """Device, versions and memory. Never raises."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        return Probe(
            backend="cuda",
            available=False,
            reason=f"{', '.join(missing)} not installed; pip install 'fedmed[cuda]'.",
        )
    torch_version = _version("torch").partition("+")[0]
    device, memory, free, words = _nvidia() or _apple() or _processor()
    return Probe(
        backend="cuda",
        available=True,
        reason=f"torch {torch_version} on {words}.",
        device=device,
        engine="torch",
        version=torch_version,
        memory_bytes=memory,
        free_bytes=free,
        forward_tokens=FORWARD_TOKENS[device],
        quantisations=_quantisations(device),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def _quantisations(device: str) -> tuple[Quantisation, ...]:
    if device == "mps" or find_spec("bitsandbytes") is None:
        return ("none",)
    return ("none", "nf4", "int8")


def _nvidia() -> tuple[str, int, int, str] | None:
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if not driver or "+cpu" in _version("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_properties(0)
    words = f"{card.name} with {card.total_memory / 2**30:.0f} GiB"
    return "cuda", card.total_memory, torch.cuda.mem_get_info(0)[0], words


def _apple() -> tuple[str, int, int, str] | None:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return None
    import torch

    if not torch.backends.mps.is_available():
        return None
    words = f"Apple's GPU through MPS, {ram_bytes() / 2**30:.0f} GiB of shared memory"
    return "mps", ram_bytes(), free_bytes(), words


def _processor() -> tuple[str, int, int, str]:
    words = (
        f"the processor ({os.cpu_count()} threads, {ram_bytes() / 2**30:.0f} GiB), no usable GPU"
    )
    return "cpu", ram_bytes(), free_bytes(), words
