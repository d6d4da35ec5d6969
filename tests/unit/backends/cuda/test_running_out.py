"""Out of memory for real: one step back, the same gradients; and no further."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.timeout(300)
"""Processes of their own import torch, which takes long on a busy machine."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.backends.cuda.run_out_of_memory"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_step_is_repeated_in_smaller_passes_with_the_same_gradients(
    found: dict[str, Any],
) -> None:
    whole, limited = found["train unlimited"], found["train limited"]
    assert whole["said"] == []
    assert len(limited["said"]) == 1
    assert "at most 4000 tokens" in limited["said"][0]
    assert limited["steps"] == whole["steps"] == [1]
    assert limited["losses"] == pytest.approx(whole["losses"], rel=1e-6)
    for name, tensor in whole["tensors"].items():
        assert np.allclose(limited["tensors"][name], tensor, atol=2e-5), name


def test_a_second_lack_of_memory_is_an_error_that_names_the_step(found: dict[str, Any]) -> None:
    starved = found["train starved"]
    assert "Out of memory while training step" in starved["error"]
    assert len(starved["said"]) == 1


def test_an_evaluation_goes_on_in_smaller_passes_and_keeps_them(found: dict[str, Any]) -> None:
    whole, limited = found["evaluate unlimited"], found["evaluate limited"]
    assert (whole["said"], whole["error"], limited["error"]) == ([], "", "")
    # The second evaluation does not run into the same.
    assert len(limited["said"]) == 1
    assert "while evaluating. It is repeated with at most 12000 tokens" in limited["said"][0]
    assert len(whole["losses"]) == 24
    assert limited["losses"] == pytest.approx(whole["losses"], rel=1e-5)


def test_an_evaluation_that_does_not_fit_in_halves_either_is_an_error(
    found: dict[str, Any],
) -> None:
    starved = found["evaluate starved"]
    assert starved["error"] == "Out of memory while evaluating."
    assert len(starved["said"]) == 1
