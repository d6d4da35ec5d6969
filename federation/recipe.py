"""How a round trains: declared once, read by the coordinator's flags and every engine."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from federation.canonical import Message

VARIANCE_STEPS = 8
"""Over how many of a training's last steps ``loss_variance`` is taken; fewer where there are."""

Schedule = Literal["constant", "linear", "cosine"]


class TrainingRecipe(Message):
    """Hyper-parameters of one hospital's training in one round.

    One optimizer step sees ``batch_size * accumulation`` examples. Exactly one of ``steps`` and
    ``epochs`` is given. The LoRA shape (modules, rank, alpha) is the schema's, not the recipe's.
    """

    steps: int | None = Field(12, gt=0, le=1_000_000, description="optimizer steps a round")
    epochs: float | None = Field(
        None, gt=0, le=1000, description="passes over the data, instead of steps"
    )
    batch_size: int = Field(8, gt=0, le=4096, description="examples in one forward pass")
    accumulation: int = Field(1, gt=0, le=4096, description="forward passes an optimizer step")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, le=1, description="decoupled weight decay of AdamW")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in front of the LoRA factors")
    schedule: Schedule = Field("constant", description="learning rate after the warm-up")
    warmup_steps: int = Field(2, ge=0, description="optimizer steps of linear warm-up")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this L2 norm")
    max_length: int = Field(
        512,
        ge=16,
        le=1 << 17,
        description="tokens an example may have; longer ones are cut",
    )
    seed: int = Field(7, ge=0, lt=1 << 32, description="seed of data order and dropout")
    eval_examples: int = Field(
        32, gt=0, le=100_000, description="held-out examples that a hospital measures its losses on"
    )
    eval_every: int = Field(
        0, ge=0, description="optimizer steps between held-out losses; 0: only before and after"
    )

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingRecipe:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        return self

    def optimizer_steps(self, n_examples: int) -> int:
        """Steps of one round on ``n_examples`` training examples; at least one."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return math.ceil(self.epochs * n_examples / (self.batch_size * self.accumulation))
