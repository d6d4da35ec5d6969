"""How much memory a training took at its peak, and how to have more after an error."""

from __future__ import annotations

import gc

import torch

from backends.cuda.allocator import release_memory
from backends.memory import peak_resident_bytes


def reset_peak_memory() -> None:
    """Begin a new peak on CUDA; elsewhere the peak is the whole process's."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Peak bytes: of tensors on CUDA, else of the whole process since it began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_resident_bytes()


def free_memory() -> None:
    """Give back what nothing needs any more, when something did not fit."""
    gc.collect()
    release_memory()
    torch.cuda.empty_cache()
