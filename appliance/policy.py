"""The hospital's own policy: what a round may ask of it. No coordinator can weaken it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.config import first_problem, read_toml
from federation.canonical import Sha256
from federation.errors import ConfigError, PolicyRefusal
from federation.files import write_atomically
from federation.messages import Codec, Metric, RoundDescriptor

DEFAULT_POLICY = """\
# This hospital's policy. It belongs to the hospital: a round that asks for more is refused.

# Digests of base models that may be trained; empty allows every model installed here.
allowed_bases = []

# How the coordinator may combine updates: every part that a round names has to be listed here.
allowed_aggregators = [
  "fedavg", "alternating", "fedsvd", "stacked",
  "equal", "agentic", "agentic-original",
  "norm-clip", "multi-krum", "geometric-median",
]

# How an update may be coded: exactly (fp32), or as the change from the round's adapter in two
# bytes or one a value, where what rounding loses may be added to a later update (error feedback).
allowed_codecs = ["fp32", "bf16", "int8"]

# The largest adapter rank, and the most optimizer steps in one round.
max_rank = 64
max_steps = 10000

# The most training examples that one round may show the model (steps x batch size x accumulation,
# repetitions counted), the longest of them in tokens, and the most held-out examples measured.
max_examples = 1000000
max_length = 8192
max_eval_examples = 10000

# Which figures may leave with an update, beside the number of training examples that weights it.
# With "loss_before" there also leave, after a round and with `appliance sync`, the held-out loss of
# the published adapter here and the number of held-out examples it was measured on.
metrics = ["loss_before", "loss_after", "train_loss", "loss_variance"]
"""


class Policy(BaseModel):
    """policy.toml; a key that is left out has the value shown in the default file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_bases: tuple[Sha256, ...] = ()
    allowed_aggregators: tuple[str, ...] = (
        *("fedavg", "alternating", "fedsvd", "stacked"),
        *("equal", "agentic", "agentic-original"),
        *("norm-clip", "multi-krum", "geometric-median"),
    )
    allowed_codecs: tuple[Codec, ...] = get_args(Codec)
    max_rank: int = Field(64, gt=0)
    max_steps: int = Field(10_000, gt=0)
    max_examples: int = Field(1_000_000, gt=0)
    max_length: int = Field(8192, gt=0)
    max_eval_examples: int = Field(10_000, gt=0)
    metrics: tuple[Metric, ...] = ("loss_before", "loss_after", "train_loss", "loss_variance")


def load_policy(path: Path) -> Policy:
    """Read the policy, the defaults where there is no file. Raises ConfigError."""
    try:
        return Policy.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}.") from error


def write_default_policy(path: Path) -> None:
    """Put the commented default policy in place, unless the hospital has one."""
    if not path.exists():
        write_atomically(path, DEFAULT_POLICY.encode())


def check_round(policy: Policy, descriptor: RoundDescriptor, n_examples: int, source: Path) -> None:
    """Refuse a round that asks for more than the policy allows.

    ``n_examples`` is the number of training examples here, for budgets in epochs. Raises
    PolicyRefusal naming the rule, its value and what the round wants.
    """
    recipe, base = descriptor.recipe, descriptor.base
    steps = recipe.optimizer_steps(n_examples)
    broken: str | None = None
    if policy.allowed_bases and base.sha256 not in policy.allowed_bases:
        broken = f"allowed_bases does not list {base.name} ({base.sha256[:12]}...)"
    elif forbidden := set(descriptor.aggregator.split("+")) - set(policy.allowed_aggregators):
        broken = f"allowed_aggregators does not list {min(forbidden)!r}"
    elif descriptor.codec not in policy.allowed_codecs:
        broken = f"allowed_codecs does not list {descriptor.codec!r}"
    for rule, limit, wanted in (
        ("max_rank", policy.max_rank, descriptor.adapter_schema.rank),
        ("max_steps", policy.max_steps, steps),
        ("max_examples", policy.max_examples, steps * recipe.batch_size * recipe.accumulation),
        ("max_length", policy.max_length, recipe.max_length),
        ("max_eval_examples", policy.max_eval_examples, recipe.eval_examples),
    ):
        if broken is None and wanted > limit:
            broken = f"{rule} is {limit}, the round wants {wanted}"
    if broken:
        raise PolicyRefusal(
            f"This hospital's policy forbids round {descriptor.round}: {broken}.",
            hint=f"The policy is {source}; changing it is the hospital's decision.",
        )
