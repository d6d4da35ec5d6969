"""The torch engine: CUDA on NVIDIA, then MPS on a Mac, then the processor."""

from __future__ import annotations

import logging
from pathlib import Path

from backends.base import LoadedModel, Probe, Quantisation
from backends.cuda.probe import probe
from federation.errors import BackendError

# Without its optional kernels, which come from a model hub, bitsandbytes warns at every import.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


class TorchBackend:
    """``backends.base.Backend`` on torch, transformers and bitsandbytes."""

    name = "cuda"

    def probe(self) -> Probe:
        """See ``Backend.probe``."""
        return probe()

    def load(
        self, base: Path, *, quantisation: Quantisation = "none", threads: int | None = None
    ) -> LoadedModel:
        """See ``Backend.load``."""
        seen = self.probe()
        if not seen.available:
            raise BackendError(f"The torch engine cannot run here: {seen.reason}")
        if quantisation not in seen.quantisations:
            raise BackendError(
                f"This machine cannot hold a base model as {quantisation}: {seen.reason}",
                hint=f"Possible here: {', '.join(seen.quantisations)}.",
            )
        # Imported here: it takes seconds, and asking for the probe must not.
        from backends.cuda.loading import load_model

        return load_model(base, quantisation=quantisation, threads=threads)


BACKEND = TorchBackend()
