"""The loss of each target among a wide vocabulary, without copies of the logits.

torch's cross entropy of half-precision logits holds them once more in float32, their log-softmax,
and the gradients of both: 16 bytes for each entry of (tokens, vocabulary), more than all layers of
a small model. Here a few rows at a time become float32, and what is left in the place of the logits
is their gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from backends.limits import LOGITS_AT_ONCE


def target_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)[target], in float32 nats (n,).

    ``logits`` (n, vocabulary) of any float format are used up: afterwards they hold something else
    where a gradient is wanted. torch itself refuses the backward pass if anything still needs them.
    """
    return _TargetLosses.apply(logits, targets)


class _TargetLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's own, without a public type
        logits: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        losses = torch.empty(len(targets), device=logits.device)
        step = max(1, LOGITS_AT_ONCE // logits.shape[1])
        for start in range(0, len(targets), step):
            rows = slice(start, start + step)
            target = targets[rows, None]
            logs = logits[rows].float().log_softmax(1)
            losses[rows] = -logs.gather(1, target)[:, 0]
            if ctx.needs_input_grad[0]:
                probabilities = logs.exp_()
                probabilities.scatter_add_(1, target, probabilities.new_full(target.shape, -1.0))
                logits[rows] = probabilities
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logits)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        (difference,) = ctx.saved_tensors
        return difference.mul_(grad[:, None].to(difference.dtype)), None
