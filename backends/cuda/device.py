"""Where and in which numbers the torch engine computes."""

from __future__ import annotations

import os

import torch


def best_device() -> torch.device:
    """CUDA, then MPS, then the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def compute_dtype(device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    """The number format of the frozen base, given the checkpoint's own.

    GPUs compute in bfloat16. A processor keeps a float32 checkpoint, and takes the others as
    bfloat16 only where it multiplies that natively: there it trains 1.6 times as fast as in
    float32, elsewhere many times slower.
    """
    if device.type != "cpu":
        return torch.bfloat16
    return torch.float32 if stored == torch.float32 or not _native_bf16() else torch.bfloat16


def _native_bf16() -> bool:
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def threads_asked_for(threads: int | None) -> bool:
    """Whether a person decided on the number of threads, by configuration or environment."""
    return threads is not None or "OMP_NUM_THREADS" in os.environ


def use_threads(threads: int | None) -> int:
    """Set torch's compute threads; without a number, as many as the machine has free.

    A compute thread that shares its core with another program makes all the others wait, so one
    thread too many can be far slower than one too few. ``OMP_NUM_THREADS`` wins over the guess.
    """
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        busy = round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0
        threads = max(1, torch.get_num_threads() - busy)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
