"""Losses with the prompts' common beginning computed once."""

from __future__ import annotations

import pytest
import torch

from backends import evaluation
from backends.base import Example
from backends.cuda import BACKEND
from backends.cuda.model import TorchModel
from tests.tiny import tiny_model

SHARED = tuple(range(20, 40))
EXAMPLES = [
    Example((*SHARED, 5, 6, 7, 8), 22),
    Example((*SHARED, 9, 10, 11, 12, 13, 14), 22),
    Example((*SHARED, 15, 16), 21),
]


def loaded() -> TorchModel:
    model = BACKEND.load(tiny_model(), threads=1)
    assert isinstance(model, TorchModel)
    return model


def test_the_common_beginning_changes_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded()
    seen: list[int] = []
    hook = model._model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args or (kwargs["input_ids"],))[0].shape[1]),
        with_kwargs=True,
    )
    found = [x.loss for x in model.losses(EXAMPLES)]
    # The last prompt ends with the token after the shared ones, which predicts its completion.
    assert seen == [20, 6]
    monkeypatch.setattr(evaluation, "_SHORTEST_BEGINNING", 1000)
    expected = [x.loss for x in model.losses(EXAMPLES)]
    hook.remove()
    assert seen[2:] == [26]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_prompt_that_is_nothing_but_the_beginning_keeps_its_last_token() -> None:
    model = loaded()
    same = [Example((*SHARED, 5, 6), 20), Example((*SHARED, 7), 20)]
    losses = model.losses(same)
    with torch.inference_mode():
        logits = model._model(torch.tensor([same[1].tokens])).logits.float()
    expected = -logits[0, 19].log_softmax(0)[7].item()
    assert losses[1].loss == pytest.approx(expected, rel=1e-5)
