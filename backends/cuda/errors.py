"""The one place where torch's errors become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from federation.errors import OutOfMemory

_MEMORY_WORDS = ("can't allocate memory", "out of memory", "Cannot allocate memory")


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn "out of memory" of any device, met while ``doing``, into OutOfMemory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(f"Out of memory while {doing}.") from error


def _is_out_of_memory(error: Exception) -> bool:
    # The processor's allocator and MPS have no exception class of their own.
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in _MEMORY_WORDS
    )
