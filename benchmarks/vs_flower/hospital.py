"""One hospital of the measurement: the appliance's own wire, with a training that is a sum.

It fetches and verifies descriptor and parent, moves every tensor by its own constant, seals,
signs, delivers and, when the round is published, fetches the global adapter: by the same functions
as ``appliance train`` and ``appliance sync``.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from appliance.context import Context
from appliance.events import Event
from appliance.rounds.descriptor import VerifiedRound, fetch_round
from appliance.rounds.global_adapter import fetch_adapter
from appliance.rounds.outbox import Outbox
from appliance.session import Session, open_session
from benchmarks.vs_flower.journal import Journal
from federation.canonical import file_sha256
from federation.errors import TransportError
from federation.messages import CurrentRound, EngineInfo, PayloadHeader
from federation.tensors import read_header, read_tensors, write_tensors

_POLL_SECONDS = 0.2


def _quiet(event: Event) -> None:
    del event


def _current(session: Session) -> CurrentRound | None:
    try:
        return session.client.current()
    except TransportError:
        return None


def _await(session: Session, number: int, states: tuple[str, ...]) -> None:
    while True:
        current = _current(session)
        if current and (
            current.round > number or (current.round == number and current.state in states)
        ):
            return
        time.sleep(_POLL_SECONDS)


def _train(
    parent: Path, target: Path, verified: VerifiedRound, constant: np.float32, seconds: float
) -> None:
    shapes = verified.descriptor.adapter_schema.shapes(verified.descriptor.factors)
    with parent.open("rb") as source, target.open("wb") as sink:
        tensors = read_tensors(source, read_header(source))
        write_tensors(sink, shapes, ((name, tensor + constant) for name, tensor in tensors))
    time.sleep(seconds)


def _round(
    session: Session, folder: Path, number: int, index: int, seconds: float, journal: Journal
) -> None:
    journal.note("sees_round", hospital=index, round=number)
    verified = fetch_round(session.client, number, folder, session.trust, session.identity.public())
    outbox = Outbox(folder / "outbox", session.trust, session.identity)
    descriptor = verified.descriptor
    if not outbox.sealed():
        digest = descriptor.parent_adapter_sha256
        parent = fetch_adapter(
            session.client, folder / "parent", digest, descriptor, "parent", _quiet
        )
        journal.note("training_begins", hospital=index, round=number)
        update = folder / "update.safetensors"
        _train(parent.weights, update, verified, np.float32(2**index), seconds)
        journal.note("training_ends", hospital=index, round=number)
        header = PayloadHeader(
            codec=descriptor.codec,
            rank=descriptor.adapter_schema.rank,
            factors=descriptor.factors,
            n_examples=100,
            metrics={},
            engine=EngineInfo(name="sum", version="1", quantisation="none"),
            plaintext_sha256=file_sha256(update),
        )
        outbox.put(verified, header, update)
    receipt = outbox.deliver(session.client, lambda: descriptor.deadline, _quiet)
    journal.note("delivered", hospital=index, round=number, accepted=receipt.accepted)


def main() -> None:
    """``hospital.py HOME INDEX ROUNDS TRAIN_SECONDS JOURNAL``."""
    home, journal = Path(sys.argv[1]), Journal(Path(sys.argv[5]))
    index, rounds, seconds = int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    context = Context.open(home)
    with open_session(context) as session:
        for number in range(1, rounds + 1):
            _await(session, number, ("open", "published"))
            _round(session, context.paths.round(number), number, index, seconds, journal)
            _await(session, number, ("published", "aborted"))


if __name__ == "__main__":
    main()
