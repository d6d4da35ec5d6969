"""The one place where MLX's errors become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from federation.errors import OutOfMemory

_MEMORY_WORDS = ("Unable to allocate", "Attempting to allocate", "Insufficient Memory")
"""Of MLX's allocators and of Metal; MLX has no exception class of its own."""


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn "out of memory", met while ``doing``, into OutOfMemory.

    MLX's processor build ends the whole process instead where the system has no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(x in str(error) for x in _MEMORY_WORDS):
            raise
        raise OutOfMemory(f"Out of memory while {doing}.") from error
