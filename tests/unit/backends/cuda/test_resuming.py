"""What a checkpoint puts back lies where a step of the optimizer expects it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import torch

from backends.cuda.lora import Lora
from backends.cuda.resuming import capture, restore


def trained(device: str) -> tuple[Lora, torch.optim.Optimizer]:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    lora = SimpleNamespace(live=lambda: {"a": parameter}, device=torch.device("cpu"))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.ones(2, 3)
    optimizer.step()
    if device != "cpu":
        parameter.data = parameter.data.to(device)
        optimizer.state.clear()
    return cast(Lora, lora), optimizer


def test_all_that_the_optimizer_remembers_is_on_the_parameters_device() -> None:
    """A fused AdamW hands its count of steps to the kernel too; meta stands for a GPU here."""
    lora, optimizer = trained("cpu")
    found = capture(lora, optimizer, gradients=False)
    lora, optimizer = trained("meta")
    restore(found, lora, optimizer)
    ((_, state),) = optimizer.state.items()
    assert {moment: tensor.device.type for moment, tensor in state.items()} == dict.fromkeys(
        ("step", "exp_avg", "exp_avg_sq"), "meta"
    )
