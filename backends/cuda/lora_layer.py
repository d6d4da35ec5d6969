"""One linear layer with an adapter beside it, computed in as few passes over memory as it takes.

On a processor a LoRA layer costs little arithmetic and much traffic: each copy of the input in
another format, each scaled and added tensor of the output's size is a pass over memory, and kept
for the backward pass it is memory too. Here the layer's input is kept as it is and once, and the
low-rank part is added by the matrix product itself.
"""

from __future__ import annotations

from typing import Any

import torch


class LoraLinear(torch.nn.Module):
    """``base_layer(x) + scale B A x``, with A (rank, inputs) and B (outputs, rank) in float32.

    Products are in the format of ``x``. ``dropout`` is of the adapter's own input.
    """

    def __init__(
        self, base_layer: torch.nn.Module, shape: tuple[int, int], rank: int, scale: float, p: float
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        outputs, inputs = shape
        device = next(base_layer.parameters()).device
        self.lora_A = torch.nn.Parameter(torch.zeros(rank, inputs, device=device))
        self.lora_B = torch.nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.dropout = torch.nn.Dropout(p)
        self._scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (..., outputs) of inputs (..., inputs)."""
        y = self.base_layer(x)
        return _AddLowRank.apply(y, self.dropout(x), self.lora_A, self.lora_B, self._scale)


class _AddLowRank(torch.autograd.Function):
    """``y + scale B A x``; the gradient of ``y`` is the output's own."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's own, without a public type
        y: torch.Tensor,
        x: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        x = x.flatten(0, -2)
        a, b = a.to(x.dtype), (scale * b).to(x.dtype)
        between = x @ a.T
        ctx.save_for_backward(x, between, a, b)
        ctx.scale = scale
        return torch.addmm(y.flatten(0, -2), between, b.T).view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        x, between, a, b = ctx.saved_tensors
        _, wants_x, wants_a, wants_b, _ = ctx.needs_input_grad
        flat = grad.flatten(0, -2)
        inner = flat @ b
        grad_x = (inner @ a).view(*grad.shape[:-1], -1) if wants_x else None
        grad_a = (inner.T @ x).float() if wants_a else None
        # In this order the product runs over rows of what is large.
        grad_b = (between.T @ flat).T.float() * ctx.scale if wants_b else None
        return grad, grad_x, grad_a, grad_b, None
