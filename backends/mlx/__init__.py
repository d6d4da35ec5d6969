"""The MLX engine: Metal on Apple Silicon; on Linux a processor build that serves tests only."""

from __future__ import annotations

from pathlib import Path

from backends.base import LoadedModel, Probe, Quantisation
from backends.mlx.probe import probe
from federation.errors import BackendError


class MlxBackend:
    """``backends.base.Backend`` on MLX and mlx-lm's models."""

    name = "mlx"

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        return probe()

    def load(
        self, base: Path, *, quantisation: Quantisation = "none", threads: int | None = None
    ) -> LoadedModel:
        """See ``Backend.load``. MLX chooses its threads itself; ``threads`` changes nothing."""
        seen = self.probe()
        if not seen.available:
            raise BackendError(f"The MLX engine cannot run here: {seen.reason}")
        if quantisation not in seen.quantisations:
            raise BackendError(
                f"The MLX engine cannot hold a base model as {quantisation}.",
                hint=f"Possible here: {', '.join(seen.quantisations)}.",
            )
        # Imported here: it takes seconds, and asking for the probe must not.
        from backends.mlx.loading import load_model

        return load_model(base, quantisation=quantisation)


BACKEND = MlxBackend()
