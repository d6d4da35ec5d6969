"""One module a row of docs/reliability.md, found by its name.

A row's module has ``WHAT``, the row's name there, and ``run(options) -> Result``, which raises
nothing for a broken promise but lists it in ``failures``. ``options.share(n)`` scales the row's
full amount ``n`` of work to what was asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

FULL = 300
"""Kills in a full run; every other row scales with them."""


@dataclass(frozen=True)
class Options:
    """What a row may use: an empty folder, a seed, and a way to say how far it is."""

    kills: int
    seed: int
    folder: Path
    say: Callable[[str], None]

    def share(self, full: int) -> int:
        """The part of a row's full amount, at least one."""
        return max(1, round(full * min(1.0, self.kills / FULL)))


@dataclass(frozen=True)
class Result:
    """What a row found: figures by name, lines of a coverage table, broken promises."""

    figures: Mapping[str, int | float]
    coverage: list[tuple[str, ...]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def names() -> list[str]:
    """The rows there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """A row by its name."""
    return importlib.import_module(f"{__name__}.{name}")
