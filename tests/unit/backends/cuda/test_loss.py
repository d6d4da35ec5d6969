"""The loss over a wide vocabulary against torch's own cross entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from backends.cuda import loss
from backends.cuda.loss import target_losses

TARGETS = torch.tensor([3, 0, 49, 7, 7])
WEIGHTS = torch.tensor([0.5, 1.0, 0.1, 2.0, 0.0])


def hidden(dtype: torch.dtype) -> torch.Tensor:
    stream = torch.Generator().manual_seed(0)
    return (torch.randn(5, 50, generator=stream) * 4).to(dtype).requires_grad_()


@pytest.mark.parametrize("at_once", [1 << 22, 100, 1])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_losses_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, close: float, at_once: int
) -> None:
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", at_once)
    ours, theirs = hidden(dtype), hidden(dtype)
    found = target_losses(ours * 2, TARGETS)
    expected = cross_entropy((theirs * 2).float(), TARGETS, reduction="none")
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)
    (found * WEIGHTS).sum().backward()
    (expected * WEIGHTS).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=close * theirs.grad.abs().max().item())


def test_the_gradient_takes_the_place_of_the_logits() -> None:
    logits = hidden(torch.bfloat16) * 2
    before = logits.detach().clone()
    target_losses(logits.detach(), TARGETS)
    assert torch.equal(logits, before)
    places = []
    logits.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    target_losses(logits, TARGETS).sum().backward()
    assert places == [logits.data_ptr()]


def test_logits_that_something_else_still_needs_are_an_error_and_no_wrong_gradient() -> None:
    # The gradient of exp is its own result.
    logits = hidden(torch.float32).exp()
    losses = target_losses(logits, TARGETS)
    with pytest.raises(RuntimeError, match="inplace"):
        losses.sum().backward()
