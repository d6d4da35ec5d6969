"""What a lying hospital sends. Theta is its adapter, P the parent, both as factors.

sign-flip     P - (Theta - P)
scaling       P + 20 (Theta - P)
noise         P + noise of three times the norm of Theta - P
label-flip    trained on the answers of other questions (yes-or-no answers are turned round)
liar          as label-flip, and it reports almost no loss and a hundred times the examples
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from benchmarks.aggregation_quality.tasks import Record, answered
from federation.messages import Metric

Attack = Literal["none", "sign-flip", "scaling", "noise", "label-flip", "liar"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)

_SCALE, _NOISE = 20.0, 3.0
LIE_EXAMPLES = 100
LIE_METRICS: Mapping[Metric, float] = {
    "loss_before": 3.0,
    "loss_after": 0.01,
    "train_loss": 0.01,
    "loss_variance": 1e-6,
}


def trains_on_lies(attack: Attack) -> bool:
    """Whether the attacker's training differs, and not only what it sends."""
    return attack in ("label-flip", "liar")


def flipped(records: Sequence[Record], labels: tuple[str, str] | None, seed: int) -> list[Record]:
    """The records with wrong answers: the other label, or the answer of another question."""
    if labels is not None:
        other = {labels[0]: labels[1], labels[1]: labels[0]}
        answers = [other[r[-1]["content"]] for r in records]
    else:
        answers = [r[-1]["content"] for r in records]
        random.Random(seed).shuffle(answers)
    return [answered(r[:-1], answer) for r, answer in zip(records, answers, strict=True)]


def sent(
    attack: Attack,
    trained: Mapping[str, np.ndarray],
    parent: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """The tensors that the attacker sends: those names that it trained."""
    change = {name: tensor - parent[name] for name, tensor in trained.items()}
    if attack == "sign-flip":
        return {name: parent[name] - c for name, c in change.items()}
    if attack == "scaling":
        return {name: parent[name] + np.float32(_SCALE) * c for name, c in change.items()}
    if attack == "noise":
        draw = np.random.default_rng(seed)
        noise = {n: draw.standard_normal(c.shape, np.float32) for n, c in change.items()}
        factor = np.float32(_NOISE * _norm(change) / _norm(noise))
        return {name: parent[name] + factor * noise[name] for name in noise}
    return dict(trained)


def _norm(tensors: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(t.astype(np.float64) ** 2) for t in tensors.values())))
