"""``appliance train --round N``: whatever of the round is not done yet, in order.

    descriptor verified -> policy asked -> trained -> sealed -> delivered

Each arrow ends with a file that is written whole or not at all, so that after a crash the same
command continues: a finished training is never repeated, an update never sent twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from appliance import adapters, models
from appliance.adapters import StoredAdapter
from appliance.context import Context
from appliance.data import load_split
from appliance.data.splits import SPLITS
from appliance.engine import MachineChoices, load_engine, plan_training
from appliance.events import Event, Note, Phase, Sink
from appliance.keys import forget_previous
from appliance.locks import exclusive
from appliance.policy import Policy, check_round, load_policy
from appliance.rounds.coding import write_update
from appliance.rounds.descriptor import VerifiedRound, fetch_round
from appliance.rounds.extension import Deadline
from appliance.rounds.global_adapter import fetch_adapter
from appliance.rounds.heartbeat import Heartbeat
from appliance.rounds.outbox import Outbox
from appliance.rounds.overrides import NO_WISHES, Wishes, agreed_recipe, agreed_schema, at_rank
from appliance.rounds.residual import owed, remember
from appliance.session import Session, open_session
from appliance.training import METADATA, TrainingMetadata, TrainingPlan, load_data, train
from backends.tokens import ChatTokenizer
from federation.adapter import AdapterSchema
from federation.canonical import file_sha256
from federation.errors import DataError, FedMedError, RoundError, StorageError
from federation.files import storage_errors
from federation.messages import (
    EngineInfo,
    EvaluationReport,
    Metric,
    PayloadHeader,
    Receipt,
    RoundDescriptor,
)
from federation.recipe import TrainingRecipe
from federation.records import RoundRecord

_START = "adapter that a round starts from"


@dataclass(frozen=True)
class RoundOutcome:
    """How this hospital's part in a round ended."""

    round: int
    receipt: Receipt
    training: TrainingMetadata
    folder: Path
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True)
class Preparation:
    """A round that was verified and that the policy allows, and what it needs from here."""

    verified: VerifiedRound
    deadline: Deadline
    policy: Policy
    base: Path
    n_train: int
    n_held_out: int
    recipe: TrainingRecipe
    schema: AdapterSchema
    choices: MachineChoices

    @property
    def steps(self) -> int:
        """Optimizer steps that the recipe means on this hospital's data."""
        return self.recipe.optimizer_steps(self.n_train)


def prepare(
    context: Context, session: Session, number: int, folder: Path, wishes: Wishes
) -> Preparation:
    """Fetch and verify the round, ask the policy, find data and base model; trains nothing.

    The descriptor is kept in ``folder``. Raises the error that would stop the training:
    RoundError, IdentityError, PolicyRefusal, DataError or ModelError, InputError for a wish that
    the round does not grant.
    """
    verified = fetch_round(session.client, number, folder, session.trust, *session.own)
    policy = load_policy(context.paths.policy)
    descriptor = verified.descriptor
    recipe, schema = agreed_recipe(descriptor, wishes), agreed_schema(descriptor, wishes)
    n_train, n_held_out = (len(load_split(context.paths.data, split)) for split in SPLITS)
    if not n_train or not n_held_out:
        raise DataError(
            f"There are {n_train} training and {n_held_out} held-out examples; both are needed.",
            hint="`appliance data import FILE` adds some.",
        )
    wanted = descriptor.model_copy(update={"recipe": recipe})
    check_round(policy, wanted, n_train, context.paths.policy)
    base = models.find(context.paths.models, sha256=descriptor.base.sha256)
    deadline = Deadline(session.client, session.trust, verified, folder)
    deadline.learn()
    return Preparation(
        verified, deadline, policy, base, n_train, n_held_out, recipe, schema, wishes.choices
    )


def take_part(
    context: Context, number: int, sink: Sink, wishes: Wishes = NO_WISHES
) -> RoundOutcome:
    """Do this hospital's part of round ``number``; returns once the signed receipt is on disk.

    Raises RoundError when the coordinator refused the update, or any error of ``prepare``.
    """
    folder = context.paths.round(number)
    waiting = Note("Another training runs on this appliance; waiting for it to end.")
    with (
        exclusive(context.paths.home / "train.lock", lambda: sink(waiting)),
        open_session(context, sink) as session,
    ):
        sink(Phase("checking", f"round {number}"))
        prepared = prepare(context, session, number, folder, wishes)
        own = prepared.verified.own
        forget_previous(context.paths, own)
        outbox = Outbox(folder / "outbox", session.trust, session.signer(own))
        with Heartbeat(session.client, number) as heartbeat:

            def both(event: Event) -> None:
                heartbeat(event)
                sink(event)

            metadata = read_metadata(folder)
            if metadata is None:
                require_open(session, number)
                metadata = _train(context, session, prepared, folder, both)
            if not outbox.sealed():
                both(Phase("sealing"))
                _seal(context, session, outbox, prepared, metadata, both)
            both(Phase("uploading"))
            receipt = outbox.deliver(session.client, prepared.deadline.latest, both)
        if not receipt.accepted:
            outbox.discard()
            raise RoundError(
                f"The coordinator refused the update for round {number}: {receipt.reason}",
                hint="The trained adapter is kept; nothing of this update was aggregated.",
            )
        sink(Phase("done", f"round {number} delivered"))
        client = session.client
        return RoundOutcome(
            number, receipt, metadata, folder, client.bytes_sent, client.bytes_received
        )


def require_open(session: Session, number: int) -> None:
    """Raise RoundError unless the round accepts updates."""
    current = session.client.current()
    if current.round != number or current.state != "open":
        raise RoundError(
            f"Round {number} does not accept updates: round {current.round} is {current.state}.",
            hint="`appliance status` shows the round; training starts when it is open.",
        )


def _train(
    context: Context, session: Session, prepared: Preparation, folder: Path, sink: Sink
) -> TrainingMetadata:
    descriptor = prepared.verified.descriptor
    parent, published = _fetch_parent(context, session, descriptor, sink)
    remember(context.paths, session, descriptor)
    settings = context.config.engine
    data = load_data(ChatTokenizer(prepared.base), context.paths.data, prepared.recipe)
    machine = plan_training(
        prepared.base,
        prepared.schema,
        descriptor.factors,
        prepared.recipe,
        data.train,
        settings,
        prepared.choices,
    )
    sink(Note(f"Plan: {machine.way}; {machine.needed} of {machine.free / 1e9:.1f} GB free."))
    model = load_engine(prepared.base, settings, sink, machine.quantisation)
    steps = prepared.recipe.optimizer_steps(len(data.train))
    plan = TrainingPlan(
        base=descriptor.base,
        schema=prepared.schema,
        recipe=prepared.recipe,
        factors=descriptor.factors,
        parent=at_rank(parent, prepared.schema, folder, sink),
        # Rounds of equally many steps go through the data one after the other.
        start_step=(descriptor.round - 1) * steps,
        forward=machine.forward,
        checkpoint_seconds=settings.checkpoint_seconds,
        folder=folder,
        adapter_folder=folder / "adapter",
        origin=f"round {descriptor.round}, hospital {session.enrolment.hospital}",
    )
    _, metadata = train(model, data, plan, sink)
    # A hospital of lower rank has measured another adapter than the published one.
    whole = prepared.schema == descriptor.adapter_schema
    asked = "loss_before" in descriptor.metrics and "loss_before" in prepared.policy.metrics
    if published and whole and asked:
        loss, n = metadata.loss_before, metadata.n_held_out
        report_evaluation(session, published, loss, n, sink)
    return metadata


def _fetch_parent(
    context: Context, session: Session, descriptor: RoundDescriptor, sink: Sink
) -> tuple[StoredAdapter, int | None]:
    """The adapter that the round starts from, and the round that published it just before.

    None where that is another round or none: the first round, one after an aborted round, or a
    fresh start.
    """
    digest = descriptor.parent_adapter_sha256
    number = descriptor.round - 1
    published = number >= 1 and _was_published(session, number, digest)
    origin = (
        f"global adapter of round {number}" if published else "adapter that a round starts from"
    )
    folder = (
        adapters.global_folder(context.paths, number)
        if published
        else adapters.parent_folder(context.paths, digest)
    )
    stored = fetch_adapter(session.client, folder, digest, descriptor, origin, sink)
    return stored, number if published else None


def _was_published(session: Session, number: int, digest: str) -> bool:
    """Whether round ``number`` published the adapter with this digest, by its signed record."""
    client = session.client
    try:
        _, record = session.trust.fetch(
            client, lambda: client.record(number), RoundRecord, "record"
        )
    except RoundError:
        return False
    return (record.round, record.outcome, record.adapter_sha256) == (number, "published", digest)


def report_evaluation(
    session: Session, number: int, loss: float, n_examples: int, sink: Sink
) -> None:
    """Tell the coordinator how the global adapter of round ``number`` does here; best effort."""
    try:
        session.client.evaluation(number, EvaluationReport(loss=loss, n_examples=n_examples))
    except FedMedError as error:
        sink(Note(f"The evaluation of round {number} was not reported: {error}"))


def read_metadata(folder: Path) -> TrainingMetadata | None:
    """What the finished training in ``folder`` did, or None. Raises StorageError if damaged."""
    path = folder / METADATA
    try:
        return TrainingMetadata.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}.", hint="Remove it: the training is done again."
        ) from error


def _seal(
    context: Context,
    session: Session,
    outbox: Outbox,
    prepared: Preparation,
    metadata: TrainingMetadata,
    sink: Sink,
) -> None:
    """Seal the factors that the round trains, and the metrics that round and policy let go.

    All it needs is here since before the training: the coordinator may be out of reach.
    """
    descriptor, paths = prepared.verified.descriptor, context.paths
    folder, digest = paths.round(descriptor.round), descriptor.parent_adapter_sha256
    place = adapters.parent_folder(paths, digest)
    parent = fetch_adapter(session.client, place, digest, descriptor, _START, sink)
    trained = adapters.load(folder / "adapter")
    due = owed(paths, session.trust, descriptor)
    update = folder / ".update"
    write_update(update, descriptor, trained, parent, due)
    known: dict[Metric, float | None] = {
        "loss_before": metadata.loss_before,
        "loss_after": metadata.loss_after,
        "train_loss": metadata.train_loss,
        "loss_variance": metadata.loss_variance,
    }
    allowed = set(descriptor.metrics) & set(prepared.policy.metrics)
    name, _, version = metadata.engine.partition(" ")
    header = PayloadHeader(
        codec=descriptor.codec,
        rank=trained.card.adapter_schema.rank,
        factors=descriptor.factors,
        n_examples=metadata.n_train,
        metrics={m: value for m, value in known.items() if m in allowed and value is not None},
        engine=EngineInfo(name=name, version=version, quantisation=metadata.quantisation),
        plaintext_sha256=file_sha256(update),
    )
    outbox.put(prepared.verified, header, update)
    with storage_errors(update):
        update.unlink()
