"""Opening a round: base model, schema, parent adapter, round key, signed descriptor."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from coordinator import aggregation
from coordinator.config import RoundSection
from coordinator.context import Coordinator
from coordinator.rounds import State
from coordinator.store.plans import Plan
from coordinator.store.round_row import RoundRow
from coordinator.verification import largest_update
from federation.adapter import AdapterSchema, Factors, initial_adapter
from federation.base_model import CARD_NAME, BaseModelCard, read_card, write_card
from federation.errors import AdapterError, InputError
from federation.membership import Roster
from federation.messages import (
    LARGEST_UPLOAD,
    MAX_NORM,
    SUITE,
    BaseReference,
    Codec,
    Privacy,
    RoundDescriptor,
)
from federation.round_keys import new_seed, public_text
from federation.signing import SignedDocument

_FEWEST_FOR_A_MEDIAN = 3
_NORM_FACTOR = 10.0


def default_quorum(n_members: int) -> int:
    """All of up to two hospitals, else more than half of them."""
    return n_members if n_members <= 2 else n_members // 2 + 1


def open_round(
    coordinator: Coordinator,
    settings: RoundSection,
    *,
    base: Path | None = None,
    fresh: bool = False,
    plan: Callable[[int], Plan] | None = None,
) -> RoundRow:
    """Open the next round.

    ``base`` is a model folder or a card file; None is the previous round's. ``plan`` makes, of the
    round's number, the plan that begins with it, noted in the same transaction. Raises InputError
    for settings that cannot work, AdapterError when the previous adapter has another schema and
    ``fresh`` does not say to start anew, RoundError while another round is open.
    """
    previous = coordinator.store.rounds.newest()
    roster_document = coordinator.store.members.roster()
    roster = coordinator.roster()
    quorum = _quorum(settings, roster)
    card = _card(base, previous)
    schema = _schema(settings, card, previous)
    last = None if fresh else _continued(coordinator, card, schema)
    turn = last.turn + 1 if last else 1
    aggregator = aggregation.get(settings.aggregator or _default_aggregator(quorum))
    aggregator.check_round(len(roster.members), quorum, settings.metrics)
    factors = aggregator.combiner.factors(turn)
    _check_upload_size(settings.codec, schema, factors)
    parent = _parent(coordinator, last, schema, settings.seed)
    number = previous.number + 1 if previous else 1
    seed = new_seed()
    now = coordinator.clock()
    descriptor = RoundDescriptor(
        suite=SUITE,
        federation=coordinator.federation,
        round=number,
        base=BaseReference(name=card.name, sha256=card.sha256, n_bytes=card.n_bytes),
        adapter_schema=schema,
        parent_adapter_sha256=parent,
        factors=factors,
        recipe=settings.recipe(),
        aggregator=aggregator.name,
        mixed_ranks=aggregator.combiner.mixed_ranks,
        overrides=settings.overrides,
        codec=settings.codec,
        error_feedback=settings.codec != "fp32" and aggregator.combiner.keeps_factors,
        max_norm=settings.max_norm or min(_NORM_FACTOR * _norm(coordinator, parent), MAX_NORM),
        metrics=settings.metrics,
        privacy=Privacy(),
        roster_sha256=roster_document.body_sha256,
        round_public_key=public_text(seed),
        quorum=quorum,
        opened_at=now,
        deadline=now + settings.deadline_minutes * 60,
        grace_minutes=settings.grace_minutes,
        extension_minutes=settings.extension_minutes,
        extensions=settings.extensions,
        anomalies=settings.anomalies,
        review_minutes=settings.review_minutes,
    )
    row = _add(coordinator, descriptor, card, turn, seed, plan(number) if plan else None)
    coordinator.emit("round_opened", round=number, quorum=quorum, deadline=descriptor.deadline)
    return row


def _add(
    coordinator: Coordinator,
    descriptor: RoundDescriptor,
    card: BaseModelCard,
    turn: int,
    seed: bytes,
    plan: Plan | None,
) -> RoundRow:
    """Sign the round and keep it, its secret wrapped by a key that is not replaced meanwhile."""
    with coordinator.wrapping.steady() as key:
        row = RoundRow(
            number=descriptor.round,
            state=State.OPEN,
            document=SignedDocument.sign(descriptor, coordinator.identity, "descriptor"),
            card=card,
            turn=turn,
            wrapped_seed=key.wrap(seed, coordinator.federation, descriptor.round),
        )
        coordinator.store.rounds.add(row, plan)
    return row


def _default_aggregator(quorum: int) -> str:
    """By what docs/aggregation.md measured: one vote each, and none of a liar where that can be."""
    return "geometric-median+stacked" if quorum >= _FEWEST_FOR_A_MEDIAN else "equal+stacked"


def _quorum(settings: RoundSection, roster: Roster) -> int:
    n_members = len(roster.members)
    if n_members == 0:
        raise InputError(
            "The roster is empty: nobody could take part.",
            hint="`coordinator invite` and `coordinator approve` add hospitals.",
        )
    quorum = settings.quorum or default_quorum(n_members)
    if quorum > n_members:
        raise InputError(
            f"--quorum {quorum} is more than the {n_members} hospitals there are.",
            hint="Choose a smaller one, or leave it out; `coordinator status` lists the hospitals.",
        )
    return quorum


def _card(base: Path | None, previous: RoundRow | None) -> BaseModelCard:
    if base is None:
        if previous is None:
            raise InputError(
                "The first round needs a base model.",
                hint=f"Give --base: a model folder, or its card {CARD_NAME}.",
            )
        return previous.card
    if base.is_dir() and not (base / CARD_NAME).is_file():
        return write_card(base, base.resolve().name)
    return read_card(base)


def _schema(
    settings: RoundSection, card: BaseModelCard, previous: RoundRow | None
) -> AdapterSchema:
    """What was not asked for stays as in the previous round on the same base."""
    given = settings.model_fields_set
    if previous is None or previous.card != card:
        return card.adapter_schema(
            settings.target_modules, rank=settings.rank, alpha=settings.alpha
        )
    before = previous.descriptor.adapter_schema
    rank = settings.rank if "rank" in given else before.rank
    alpha = settings.alpha if "alpha" in given else before.alpha
    if "target_modules" in given:
        return card.adapter_schema(settings.target_modules, rank=rank, alpha=alpha)
    return AdapterSchema(modules=before.modules, rank=rank, alpha=alpha)


def _continued(
    coordinator: Coordinator, card: BaseModelCard, schema: AdapterSchema
) -> RoundRow | None:
    """The published round whose adapter is trained further; None when there is none yet."""
    last = coordinator.store.rounds.last_published()
    if last is None:
        return None
    before = last.descriptor
    for what, differs in (
        ("base model", before.base.sha256 != card.sha256),
        ("layers", before.adapter_schema.modules != schema.modules),
        ("rank", before.adapter_schema.rank != schema.rank),
        ("alpha", before.adapter_schema.alpha != schema.alpha),
    ):
        if differs:
            raise AdapterError(
                f"The adapter of round {last.number} was made for another {what}.",
                hint="Keep what that round had, or start from a new adapter with --fresh.",
            )
    return last


def _parent(
    coordinator: Coordinator, last: RoundRow | None, schema: AdapterSchema, seed: int
) -> str:
    if last is None:
        return coordinator.blobs.put_adapter(schema.shapes(), initial_adapter(schema, seed))
    assert last.adapter_sha256 is not None
    return last.adapter_sha256


def _norm(coordinator: Coordinator, sha256: str) -> float:
    squared = 0.0
    for _, tensor in coordinator.blobs.read_adapter(sha256):
        flat = tensor.astype(np.float64).ravel()
        squared += float(flat @ flat)
    return math.sqrt(squared)


def _check_upload_size(codec: Codec, schema: AdapterSchema, factors: Factors) -> None:
    length = largest_update(codec, schema, factors)
    if length > LARGEST_UPLOAD:
        raise InputError(
            f"An update would have {length >> 20} MiB, more than {LARGEST_UPLOAD >> 20}.",
            hint="Choose --codec int8, a smaller --rank, or fewer --target-modules.",
        )
