"""Memory on Apple's GPU, which is the machine's own: what MLX may take, keep, and took."""

from __future__ import annotations

import mlx.core as mx

_CACHE_SHARE = 8
"""Of the memory that Metal recommends, one part in so many may be kept for tensors to come."""


def prepare_device() -> None:
    """On Metal, keep the model from being paged out and bound the memory kept for reuse.

    Batches differ in shape, and without a bound MLX keeps the memory of each.
    """
    if (recommended := recommended_bytes()) is not None:
        mx.set_wired_limit(recommended)
        mx.set_cache_limit(recommended // _CACHE_SHARE)


def recommended_bytes() -> int | None:
    """What Metal recommends that one program takes; None without Metal."""
    if not mx.metal.is_available():
        return None
    return int(mx.device_info()["max_recommended_working_set_size"])


def reset_peak_memory() -> None:
    """Begin a new peak."""
    mx.reset_peak_memory()


def peak_memory() -> int:
    """Peak bytes of MLX's tensors since the last reset."""
    return mx.get_peak_memory()


def release_memory() -> None:
    """Give what is free back to the system, when a training is over."""
    mx.clear_cache()
