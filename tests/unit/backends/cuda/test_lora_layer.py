"""A LoRA layer against its formula, and what it keeps for the backward pass."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from backends.cuda.lora_layer import LoraLinear

INPUTS, OUTPUTS, RANK, SCALE = 24, 40, 3, 1.5


def layer(dtype: torch.dtype = torch.float32, *, bias: bool = True, p: float = 0.0) -> LoraLinear:
    torch.manual_seed(0)
    base = torch.nn.Linear(INPUTS, OUTPUTS, bias=bias).requires_grad_(False)
    made = LoraLinear(base.to(dtype), (OUTPUTS, INPUTS), RANK, SCALE, p)
    for factor in (made.lora_A, made.lora_B):
        torch.nn.init.normal_(factor)
    return made


def inputs(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    stream = torch.Generator().manual_seed(1)
    return torch.randn(2, 5, INPUTS, generator=stream).to(dtype)


def formula(made: LoraLinear, x: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
    return made.base_layer(x) + SCALE * (dropped @ made.lora_A.T) @ made.lora_B.T


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("learning", list(product([True, False], repeat=3)))
def test_output_and_gradients_are_those_of_the_formula(
    learning: tuple[bool, bool, bool], bias: bool
) -> None:
    found = []
    for ours in (True, False):
        made, x = layer(bias=bias), inputs()
        leaves = (x, made.lora_A, made.lora_B)
        for leaf, wanted in zip(leaves, learning, strict=True):
            leaf.requires_grad_(wanted)
        y = made(x) if ours else formula(made, x, x)
        if any(learning):
            y.square().sum().backward()
        found.append([y, *(leaf.grad for leaf in leaves)])
    for mine, expected in zip(*found, strict=True):
        assert (mine is None) is (expected is None)
        assert mine is None or torch.allclose(mine, expected, rtol=1e-5, atol=1e-4)


def test_dropout_is_of_the_adapters_input_alone() -> None:
    made, x = layer(p=0.5), inputs()
    made.base_layer.eval()
    torch.manual_seed(3)
    found = made(x)
    torch.manual_seed(3)
    assert torch.allclose(found, formula(made, x, torch.nn.functional.dropout(x, 0.5)), atol=1e-5)
    assert not torch.allclose(found, formula(made, x, x), atol=1e-1)


def test_in_half_precision_factors_and_their_gradients_stay_float32() -> None:
    made, x = layer(torch.bfloat16), inputs(torch.bfloat16).requires_grad_()
    exact, x32 = layer(), inputs().requires_grad_()
    expected = formula(exact, x32, x32)
    expected.square().mean().backward()
    y = made(x)
    y.square().mean().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert made.lora_A.grad.dtype == made.lora_B.grad.dtype == torch.float32
    assert (y - expected).norm() < 0.01 * expected.norm()
    pairs = ((made.lora_A, exact.lora_A), (made.lora_B, exact.lora_B), (x, x32))
    for mine, theirs in pairs:
        assert (mine.grad - theirs.grad).norm() < 0.02 * theirs.grad.norm()


def test_the_input_is_kept_once_and_as_it_is() -> None:
    """Not in float32, and three layers with the same input keep one of it together."""
    x = inputs(torch.bfloat16).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = [layer(torch.bfloat16)(x) for _ in range(3)]
    assert len(outputs) == 3
    assert x.data_ptr() in kept
    low_rank = 2 * RANK * (x.numel() // INPUTS + INPUTS + OUTPUTS)
    weights = 2 * INPUTS * OUTPUTS
    assert sum(kept.values()) <= x.nbytes + 3 * (low_rank + weights)
    assert sum(size == x.nbytes for size in kept.values()) == 1
