"""``appliance sync``: fetch the newest global adapter, verify it, measure it on local data."""

from __future__ import annotations

from dataclasses import dataclass

from appliance import adapters, models
from appliance.adapters import StoredAdapter
from appliance.adopted import Adoption, read_adoption
from appliance.audit.services import watch
from appliance.context import Context
from appliance.engine import load_engine
from appliance.events import Note, Phase, Sink
from appliance.policy import load_policy
from appliance.rounds.adopting import adopt
from appliance.rounds.descriptor import fetch_round
from appliance.rounds.global_adapter import fetch_adapter, fetch_record
from appliance.rounds.participation import report_evaluation
from appliance.session import open_session
from appliance.training import load_held_out, mean_loss
from federation.errors import RoundError
from federation.messages import CurrentRound
from federation.records import RoundRecord


@dataclass(frozen=True)
class SyncOutcome:
    """The adapter that is here now; ``loss`` is its held-out loss here, None if not measured.

    ``adoption`` is what was decided about it, None where that was not the question: nothing was
    measured, the round was aborted, or a later round was decided about before.
    """

    round: int
    adapter: StoredAdapter
    record: RoundRecord
    loss: float | None
    adoption: Adoption | None


def sync(
    context: Context, sink: Sink, *, number: int | None = None, evaluate: bool = True
) -> SyncOutcome:
    """Fetch the global adapter of round ``number``, or of the newest finished round.

    Its held-out loss is measured here and, where the policy lets ``loss_before`` leave, reported;
    and it is decided whether to use it (``appliance.rounds.adopting``).
    Raises RoundError when no round has finished, or round ``number`` has not, AuditError when the
    coordinator's log does not continue what was seen of it before.
    """
    with open_session(context, sink) as session:
        sink(Phase("checking", "published rounds"))
        watch(context, session)
        wanted = number or _newest_finished(session.client.current())
        folder = context.paths.round(wanted)
        verified = fetch_round(session.client, wanted, folder, session.trust, *session.own)
        record = fetch_record(session.client, session.trust, wanted, verified.sha256, folder)
        if record.outcome == "aborted":
            sink(Note(f"Round {wanted} was aborted ({record.reason}); its adapter is the old one."))
        descriptor = verified.descriptor
        stored = fetch_adapter(
            session.client,
            adapters.global_folder(context.paths, wanted),
            record.adapter_sha256,
            descriptor,
            f"global adapter of round {wanted}",
            sink,
        )
        loss = adoption = None
        if evaluate:
            base = models.find(context.paths.models, sha256=descriptor.base.sha256)
            model = load_engine(base, context.config.engine, sink)
            held_out = load_held_out(model, context.paths.data, descriptor.recipe)
            model.attach(stored.weights, descriptor.adapter_schema)
            sink(Phase("evaluating", f"global adapter of round {wanted}"))
            loss = mean_loss(model.losses(held_out, sink))
            allowed = load_policy(context.paths.policy).metrics
            # An aborted round published nothing of its own.
            published = record.outcome == "published"
            if published and "loss_before" in descriptor.metrics and "loss_before" in allowed:
                report_evaluation(session, wanted, loss, len(held_out), sink)
            before = read_adoption(context.paths)
            if published and (before is None or before.round <= wanted):
                adoption = adopt(context, model, held_out, wanted, stored, loss, sink)
        sink(Phase("done", f"global adapter of round {wanted} is here"))
        return SyncOutcome(wanted, stored, record, loss, adoption)


def _newest_finished(current: CurrentRound) -> int:
    newest = current.round if current.state in ("published", "aborted") else current.round - 1
    if newest < 1:
        raise RoundError("No round has finished yet.", hint="`appliance status` shows the round.")
    return newest
