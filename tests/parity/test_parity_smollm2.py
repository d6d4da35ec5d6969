"""The real model of the demonstration on both engines, where it is installed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.parity.engines import load, losses
from tests.tiny_training import conversation

MODELS = Path(os.environ.get("FEDMED_MODELS", Path(__file__).parents[2] / "demo-run" / "models"))
BASE = MODELS / "smollm2-135m-instruct"


@pytest.mark.skipif(not BASE.is_dir(), reason="make demo installs it")
@pytest.mark.timeout(300)
def test_smollm2_has_the_same_loss_on_both_engines() -> None:
    """In bfloat16, which each engine rounds in its own places; a wrong rotation costs far more."""
    found = []
    for name in ("cuda", "mlx"):
        model = load(name, BASE)
        found.append(losses(model, [model.encode(conversation("fracture"), max_length=64)]))
    assert np.abs(found[0] - found[1]).max() < 0.05
    assert 1.0 < found[0][0] < 5.0
