"""What a finished service call gave, as rows of label and value."""

from __future__ import annotations

import time

from appliance.rounds.dry_run import DryRun
from appliance.rounds.participation import RoundOutcome
from appliance.rounds.sync import SyncOutcome
from appliance.training import TrainingMetadata
from tui.formats import duration, loss, size

Row = tuple[str, str]


def training_rows(done: TrainingMetadata) -> list[Row]:
    """What a training did."""
    return [
        ("Held-out loss", f"{loss(done.loss_before)} → {loss(done.loss_after)}"),
        ("Training", f"{done.steps} steps, {done.n_tokens:,} tokens, {duration(done.seconds)}"),
        ("Data", f"{done.n_train} training and {done.n_held_out} held-out examples"),
    ]


def round_rows(outcome: RoundOutcome) -> list[Row]:
    """How this hospital's part in a round ended."""
    sent, base = outcome.bytes_sent, outcome.training.base.n_bytes
    return [
        ("Delivered", f"round {outcome.round}, receipt {outcome.receipt.upload_id[:12]}…"),
        *training_rows(outcome.training),
        ("Sent", f"{size(sent)}, {sent / base:.2%} of the base model"),
        ("Kept in", str(outcome.folder)),
    ]


def local_rows(done: TrainingMetadata) -> list[Row]:
    """What local-only training gave."""
    return [("Trained", "the local adapter, on this hospital's data alone"), *training_rows(done)]


def sync_rows(outcome: SyncOutcome) -> list[Row]:
    """The global adapter that was fetched."""
    decided = outcome.adoption
    return [
        ("Fetched", f"the global adapter of round {outcome.round}"),
        ("Held-out loss", f"{loss(outcome.loss)} on this hospital's data"),
        *([("In use", f"{decided.choice}: {decided.reason}")] if decided else []),
        ("Kept in", str(outcome.adapter.folder)),
    ]


def dry_run_rows(plan: DryRun) -> list[Row]:
    """What taking part in a round would mean."""
    return [
        ("Round", f"{plan.round}, open until {time.ctime(plan.deadline)}"),
        ("Base model", plan.base),
        ("Engine", f"{plan.backend}: {plan.reason}"),
        ("Data", f"{plan.n_train} training and {plan.n_held_out} held-out examples"),
        (
            "Training",
            f"{plan.steps} steps, rank {plan.rank}, factors {plan.factors}, "
            f"aggregated by {plan.aggregator}",
        ),
        ("Memory", f"{size(plan.memory_needed)} of {size(plan.memory_free)} free"),
        ("Plan", plan.machine.way),
        ("Leaves here", ", ".join(plan.leaves)),
        ("Policy", "allows this round; nothing was trained"),
    ]
