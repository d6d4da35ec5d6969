"""What both sides move: so many float32 tensors of one size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from federation.adapter import ModuleShape
from federation.base_model import BaseModelCard
from federation.files import write_atomically

_RANK = 16


@dataclass(frozen=True)
class Payload:
    """``n_tensors`` float32 tensors of together about ``megabytes`` (MB, 10^6 bytes)."""

    megabytes: float
    n_tensors: int

    @property
    def rank(self) -> int:
        """Rank of the adapter that has these tensors as its factors."""
        return _RANK

    @property
    def width(self) -> int:
        """Inputs and outputs of each of the adapter's ``n_tensors / 2`` modules."""
        return max(1, round(self.megabytes * 1e6 / 4 / self.n_tensors / _RANK))

    @property
    def n_values(self) -> int:
        """Numbers in all tensors together."""
        return self.n_tensors * _RANK * self.width


def write_card(path: Path, payload: Payload) -> Path:
    """The card of a base model whose adapter is this payload; no weights are needed."""
    linears = tuple(
        ModuleShape(path=f"layers.{i:04d}.linear", inputs=payload.width, outputs=payload.width)
        for i in range(payload.n_tensors // 2)
    )
    card = BaseModelCard(name="payload", sha256="0" * 64, n_bytes=1 << 30, linears=linears)
    write_atomically(path, card.to_json())
    return path
