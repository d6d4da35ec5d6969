"""What a checkpoint puts back lies where a step of the optimizer expects it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import torch

from backends.cuda.lora import Lora
from backends.cuda.resuming import capture, restore


def one(parameter: torch.nn.Parameter) -> Lora:
    """As much of a Lora as is asked for here, with one factor."""
    return cast(Lora, SimpleNamespace(live=lambda: {"a": parameter}, device=torch.device("cpu")))


def test_all_that_the_optimizer_remembers_is_on_the_parameters_device() -> None:
    """A fused AdamW hands its count of steps to the kernel too; meta stands for a GPU here."""
    here = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([here], fused=True)
    here.grad = torch.ones(2, 3)
    optimizer.step()
    found = capture(one(here), optimizer, gradients=False)
    there = torch.nn.Parameter(torch.ones(2, 3, device="meta"))
    optimizer = torch.optim.AdamW([there])
    restore(found, one(there), optimizer)
    devices = {moment: tensor.device.type for moment, tensor in optimizer.state[there].items()}
    assert devices == dict.fromkeys(("step", "exp_avg", "exp_avg_sq"), "meta")
