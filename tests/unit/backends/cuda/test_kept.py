"""What a forward pass keeps for the backward pass, counted: what the estimate of memory says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backends.base import Example
from backends.cuda import BACKEND
from backends.cuda.forward import make_batch, token_losses
from backends.cuda.model import TorchModel
from backends.kept import Kept, PassShape
from backends.model_shape import read_shape
from federation.base_model import read_card
from tests.tiny import ARCHITECTURES, Architecture, tiny_model
from tests.tiny_training import schema_for, write_random

ROWS, COLUMNS = 4, 64
EXAMPLES = [Example(tuple(range(5 + i, 5 + i + COLUMNS)), COLUMNS // 2) for i in range(ROWS)]
ATTENTION = (r".*layers\.\d+\.self_attn\..*",)
ALL = (r".*layers\.\d+\.(self_attn|mlp)\..*",)


def really_kept(model: TorchModel) -> int:
    """Bytes of all tensors that autograd saves beside the weights, each counted once."""
    weights = {p.untyped_storage().data_ptr() for p in model._model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # Held, so that no other tensor gets its place.
        found.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    batch = make_batch(EXAMPLES, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = token_losses(model._model, batch)
    assert losses.requires_grad
    return sum(t.untyped_storage().nbytes() for place, t in found.items() if place not in weights)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("modules", "dtype", "dropout"),
    [(ATTENTION, "BF16", 0.0), (ALL, "BF16", 0.0), (ALL, "F32", 0.0), (ALL, "BF16", 0.1)],
)
def test_the_estimate_counts_what_is_kept(
    tmp_path: Path, architecture: Architecture, modules: tuple[str, ...], dtype: str, dropout: float
) -> None:
    base = tiny_model(architecture, dtype)
    model = BACKEND.load(base, threads=1)
    assert isinstance(model, TorchModel)
    schema = schema_for(base, modules)
    start = write_random(tmp_path / "a.safetensors", schema)
    model.attach(start, schema, dropout=dropout)
    assert model._lora is not None
    model._lora.start_training("AB")
    shape = read_shape(base, read_card(base), "cpu")
    kept = Kept(shape, schema, "none", "cpu", dropout=dropout > 0)
    one = PassShape(ROWS, COLUMNS, ROWS * COLUMNS // 2)
    expected = kept.layers(one, recompute=False) + kept.logits(one.n_completion)
    # Phi's norms keep half precision as it is, which is not reckoned with.
    assert 0.94 < expected / really_kept(model) < (1.13 if architecture == "phi" else 1.03)
