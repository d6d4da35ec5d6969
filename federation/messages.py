"""The messages of the protocol: strict JSON, unknown keys refused.

Anything that must be attributable travels as a ``SignedDocument`` (federation.signing) whose body
is one of these as canonical JSON.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from federation.adapter import AdapterSchema, Factors
from federation.canonical import Message, Sha256
from federation.recipe import TrainingRecipe

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""A hospital's or federation's name."""

AggregatorName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*(\+[a-z0-9][a-z0-9-]*){0,2}$", max_length=100),
]
"""How updates are combined: up to three names joined with ``+``, as ``agentic+stacked``."""

Metric = Literal["loss_before", "loss_after", "train_loss", "loss_variance"]
"""What an update may report.

``loss_before`` and ``loss_after`` are means in nats a completion token on held-out examples,
``train_loss`` that over all training steps, ``loss_variance`` the sample variance of the losses
of the last training steps (federation.recipe).
"""

Override = Literal["epochs", "learning_rate"]
"""A field of the recipe that a round may leave to its hospitals."""

MetricValue = Annotated[float, Field(ge=-1e6, le=1e6)]

Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""How many of something; bounded, as every number is, so that none overflows a sum or a column."""

PositiveCount = Annotated[Count, Field(gt=0)]

LARGEST_UPLOAD = 256 << 20
"""Bytes that the body of a sealed update may have."""

BodyLength = Annotated[int, Field(gt=0, le=LARGEST_UPLOAD)]

MAX_NORM = 1e12
"""What a round's bound on an update's L2 norm may be at most."""

Codec = Literal["fp32", "bf16", "int8"]
"""How an update's tensors are written inside the envelope (federation.codec)."""

SUITE = "MLKEM768_X25519-HKDF_SHA256-CHACHA20_POLY1305-Cobblestone256-Ed25519-MLDSA65"
"""The one set of algorithms of protocol version 1; anything else is refused as a downgrade."""

Timestamp = Annotated[int, Field(ge=0, lt=1 << 40)]
"""Seconds since 1970, UTC."""

RoundNumber = Annotated[int, Field(ge=1, le=1_000_000)]

_LONGEST_MINUTES = 525_600

Minutes = Annotated[int, Field(ge=1, le=_LONGEST_MINUTES)]
"""A span of time in a round, up to a year."""

ReviewMinutes = Annotated[int, Field(ge=0, le=_LONGEST_MINUTES)]
"""A span of time that may be none at all."""

Anomalies = Literal["quarantine", "note"]
"""An update unlike the others' is left out unless a person admits it; or used, and noted."""

Extensions = Annotated[int, Field(ge=0, le=1000)]
"""How many times a round's deadline moves."""

Hex16 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""Sixteen random bytes in hexadecimal."""


def _base64_text(text: str) -> str:
    import base64
    import binascii

    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    return text


Base64 = Annotated[str, StringConstraints(max_length=8192), AfterValidator(_base64_text)]


class PublicIdentity(Message):
    """The two public keys of a signer: raw Ed25519 (32 bytes) and ML-DSA-65 (1952 bytes)."""

    ed25519: Base64
    mldsa65: Base64


class BaseReference(Message):
    """Which base model a round trains on; ``n_bytes`` is the size of its tensors."""

    name: str = Field(min_length=1, max_length=300)
    sha256: Sha256
    n_bytes: int = Field(gt=0, le=1 << 50)


class Privacy(Message):
    """The privacy profile: ``vetted`` lets the coordinator see one hospital's update."""

    profile: Literal["vetted"] = "vetted"


class RoundDescriptor(Message):
    """All that a hospital needs to decide about a round and to take part in it."""

    v: Literal[1] = 1
    suite: str = Field(max_length=200)
    federation: Name
    round: RoundNumber
    base: BaseReference
    adapter_schema: AdapterSchema
    parent_adapter_sha256: Sha256
    factors: Factors
    recipe: TrainingRecipe
    aggregator: AggregatorName
    mixed_ranks: bool = Field(
        False, description="whether a hospital may train at a lower rank than the schema's"
    )
    overrides: tuple[Override, ...] = Field(
        (), description="fields of the recipe that a hospital may change for itself"
    )
    codec: Codec
    error_feedback: bool = Field(
        False,
        description="whether a hospital adds what coding lost of its earlier updates to its next",
    )
    max_norm: float = Field(
        gt=0, le=MAX_NORM, description="largest L2 norm of an update's tensors together"
    )
    metrics: tuple[Metric, ...]
    privacy: Privacy
    roster_sha256: Sha256
    round_public_key: Base64
    quorum: int = Field(ge=1, le=10_000)
    opened_at: Timestamp
    deadline: Timestamp
    grace_minutes: Minutes = Field(
        _LONGEST_MINUTES,
        description="how long a silent hospital is waited for once quorum is met; what says "
        "nothing of it waits until the deadline",
    )
    extension_minutes: Minutes = Field(60, description="what an automatic extension adds")
    extensions: Extensions = Field(
        0, description="how often the deadline moves by itself when quorum is not met then"
    )
    anomalies: Anomalies = Field(
        "note", description="what becomes of an update that looks unlike the others'"
    )
    review_minutes: ReviewMinutes = Field(
        0, description="how long a person has to admit such an update before it is left out"
    )

    @property
    def schema_sha256(self) -> str:
        """Digest of the adapter schema."""
        return self.adapter_schema.digest()


class RoundExtension(Message):
    """A later deadline of an open round; the newest ``number`` holds.

    ``automatic`` counts those so far that the descriptor allows for, this one included.
    """

    v: Literal[1] = 1
    federation: Name
    round: RoundNumber
    descriptor_sha256: Sha256
    number: int = Field(ge=1, le=1_000_000)
    automatic: Extensions
    deadline: Timestamp
    reason: str = Field(max_length=1000)


class Manifest(Message):
    """The clear part of a sealed update; its digest is bound into key, body and signatures."""

    v: Literal[1] = 1
    suite: str = Field(max_length=200)
    federation: Name
    round: RoundNumber
    descriptor_sha256: Sha256
    hospital: Name
    signer: str = Field(max_length=100)
    recipient: Sha256
    upload_id: Hex16
    base_sha256: Sha256
    parent_adapter_sha256: Sha256
    roster_sha256: Sha256
    schema_sha256: Sha256
    body_length: BodyLength


class EngineInfo(Message):
    """What trained the update."""

    name: str = Field(max_length=100)
    version: str = Field(max_length=100)
    quantisation: str = Field(max_length=20)


class PayloadHeader(Message):
    """The sealed header in front of an update's tensors: nothing of it is visible to a proxy.

    ``plaintext_sha256`` is the digest of all that follows it, as the codec wrote it.
    """

    codec: Codec
    rank: int = Field(gt=0, le=1024)
    factors: Factors
    n_examples: PositiveCount
    metrics: dict[Metric, MetricValue]
    engine: EngineInfo
    plaintext_sha256: Sha256


class UpdateSignatures(Message):
    """Both signatures over manifest, wrapped key and body; both must verify."""

    ed25519: Base64
    mldsa65: Base64


class UploadRequest(Message):
    """Announces a sealed update: all of it but the body."""

    manifest: str = Field(max_length=8192)
    wrapped_key: Base64
    body_sha256: Sha256
    signatures: UpdateSignatures


class UploadStatus(Message):
    """Where an upload stands; ``offset`` bytes of the body are durable at the coordinator."""

    upload_id: Hex16
    offset: int = Field(ge=0, le=LARGEST_UPLOAD)
    length: BodyLength


class Receipt(Message):
    """The coordinator's answer to a committed update, given only after it is durable."""

    v: Literal[1] = 1
    federation: Name
    round: RoundNumber
    hospital: Name
    upload_id: Hex16
    body_sha256: Sha256
    accepted: bool
    reason: str = Field(max_length=1000)
    received_at: Timestamp


class ProgressReport(Message):
    """A heartbeat from a hospital that takes part; nothing about its data."""

    phase: Literal["preparing", "training", "evaluating", "uploading"]
    step: Count
    of: Count


class EvaluationReport(Message):
    """The published adapter's mean loss on a hospital's own held-out examples.

    It is the same number as the next update's ``loss_before`` and leaves only where that may.
    """

    loss: float = Field(ge=0, le=1e4)
    n_examples: PositiveCount


class CurrentRound(Message):
    """The newest round's number and state; 0 when none was ever opened.

    ``quarantine`` says why the caller's own update waits to be admitted by a person.
    """

    round: int = Field(ge=0, le=1_000_000)
    state: Literal["none", "open", "closed", "aggregated", "published", "aborted"]
    delivered: bool
    quarantine: str = Field("", max_length=1000)


class Problem(Message):
    """RFC 9457 problem details; ``type`` is stable."""

    type: str
    title: str
    status: int = Field(ge=100, le=599)
    detail: str
    hint: str = ""
