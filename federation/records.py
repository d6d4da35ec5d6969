"""What a round did with the updates that it received, signed when it is over."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from federation.canonical import Message, Sha256
from federation.findings import ChangeFigures
from federation.messages import (
    AggregatorName,
    BodyLength,
    EngineInfo,
    Hex16,
    Metric,
    MetricValue,
    Name,
    PositiveCount,
    RoundNumber,
    Timestamp,
)


class Contribution(Message):
    """One hospital's part in a round; the explanation is for people.

    ``change`` is what it changed beside the others, the validated figures as in ``UpdateFinding``.
    """

    hospital: Name
    upload_id: Hex16
    body_sha256: Sha256
    body_length: BodyLength
    weight: float = Field(ge=0, le=1)
    explanation: str = Field(max_length=1000)
    n_examples: PositiveCount
    metrics: dict[Metric, MetricValue]
    engine: EngineInfo
    change: ChangeFigures | None = None
    validated_loss: float | None = None
    validated_variance: float | None = None


class Rejection(Message):
    """An update that was not aggregated, and why; the figures as in ``Contribution``."""

    hospital: Name
    upload_id: Hex16
    reason: str = Field(max_length=1000)
    change: ChangeFigures | None = None
    validated_loss: float | None = None
    validated_variance: float | None = None


class RoundRecord(Message):
    """What a round did. ``adapter_sha256`` is the digest of the published safetensors file."""

    v: Literal[1] = 1
    federation: Name
    round: RoundNumber
    descriptor_sha256: Sha256
    outcome: Literal["published", "aborted"]
    reason: str = Field(max_length=1000)
    adapter_sha256: Sha256
    parent_adapter_sha256: Sha256
    aggregator: AggregatorName
    contributions: tuple[Contribution, ...]
    discarded: dict[str, float] = Field(
        default_factory=dict,
        description="module -> part of the squared norm of the aggregate's Delta W, 0 to 1, "
        "that the cut to the schema's rank lost",
    )
    losses: Literal["reported", "validated"] = Field(
        "reported", description="whose losses were weighed by: the hospitals' or the coordinator's"
    )
    validation: str = Field(
        "", max_length=1000, description="what the coordinator validated on, or why it could not"
    )
    rejections: tuple[Rejection, ...]
    absent: tuple[Name, ...]
    closed_at: Timestamp
