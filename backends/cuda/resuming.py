"""What of torch a training's checkpoint holds: factors, gradients, moments, random generators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from backends.cuda.lora import Lora

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What torch's AdamW keeps of each parameter."""


def capture(
    lora: Lora, optimizer: torch.optim.Optimizer, *, gradients: bool
) -> dict[str, np.ndarray]:
    """All tensors that the rest of the training depends on; ``gradients`` inside a step only."""
    tensors = {f"random.{name}": state for name, state in random_states(lora.device).items()}
    for name, parameter in lora.live().items():
        tensors[f"factor.{name}"] = parameter
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}.{name}"] = value
        if gradients:
            assert parameter.grad is not None
            tensors[f"gradient.{name}"] = parameter.grad
    return {name: tensor.detach().to("cpu").numpy() for name, tensor in tensors.items()}


def restore(
    tensors: Mapping[str, np.ndarray], lora: Lora, optimizer: torch.optim.Optimizer
) -> None:
    """Put everything back where ``capture`` found it."""
    for name, parameter in lora.live().items():
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(tensors[f"factor.{name}"]))
        if f"gradient.{name}" in tensors:
            parameter.grad = torch.from_numpy(tensors[f"gradient.{name}"]).to(parameter.device)
        if f"step.{name}" in tensors:
            # A fused AdamW keeps its count of steps there too.
            optimizer.state[parameter] = {
                moment: torch.from_numpy(tensors[f"{moment}.{name}"]).to(parameter.device)
                for moment in _MOMENTS
            }
    set_random_states(
        {
            name.removeprefix("random."): torch.from_numpy(state)
            for name, state in tensors.items()
            if name.startswith("random.")
        },
        lora.device,
    )


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The generators that dropout draws from: the processor's and the device's own."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Set the generators to what ``random_states`` gave."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["device"])
