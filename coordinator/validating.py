"""Measuring each hospital's own model on the coordinator's validation set, where it has one.

The engine runs in a process of its own (``coordinator.validation``), which is ended when it is
silent for too long. Each loss is kept as it comes, by upload and set, so that after a crash only
what is missing is measured. A set that cannot be used never stops a round: the reported losses are
used then, and the record says so.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from coordinator.aggregation import Inputs, Tensors, Update, ValidatedLoss
from coordinator.config import ValidationSection
from coordinator.context import Coordinator
from coordinator.inputs import round_inputs
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from coordinator.validation import FOLDS, FOR_FOLDS, Adapter, Failure, Job, Loss, read_items
from federation.base_model import CARD_NAME, read_card
from federation.canonical import Message, canonical_json, file_sha256, sha256
from federation.errors import BackendError, InputError, ModelError


@dataclass(frozen=True)
class Validated:
    """Losses by upload id; ``text`` says on what, or why not, and is empty without a set."""

    losses: Mapping[str, ValidatedLoss] = field(default_factory=dict)
    text: str = ""


def validate(coordinator: Coordinator, row: RoundRow, uploads: Sequence[UploadRow]) -> Validated:
    """The loss of each update's own model on the validation set.

    Raises StorageError when the coordinator's disk refuses; whatever else is wrong is said in the
    answer and as an event, with a remedy.
    """
    section = coordinator.validation
    if not section.data or not uploads:
        return Validated()
    ids = [upload.upload_id for upload in uploads]
    reviews = coordinator.store.reviews
    try:
        n = len(read_items(Path(section.data), section.examples))
        digest = _set_digest(section, row)
        known = reviews.validated(digest, ids)
        missing = [upload for upload in uploads if upload.upload_id not in known]
        if missing:
            for upload_id, loss in _measured(coordinator, row, missing):
                reviews.keep_loss(upload_id, digest, loss)
            known = reviews.validated(digest, ids)
    except (InputError, BackendError) as error:
        coordinator.emit("not_validated", round=row.number, reason=str(error), hint=error.hint)
        return Validated(text=f"not validated, so that the reported losses hold: {error}")
    text = f"validated on {n} examples of {Path(section.data).name}"
    if n < FOR_FOLDS:
        text += f"; folds need {FOR_FOLDS}, so that nobody's steadiness counts"
    return Validated(known, text)


def _set_digest(section: ValidationSection, row: RoundRow) -> str:
    """Digest of all that a loss depends on beside the update. Raises ModelError."""
    base = Path(section.base)
    if not section.base or not (base / CARD_NAME).is_file():
        raise ModelError(
            f"There is no base model to validate with at {base.name or 'no folder'!r}.",
            hint="Set [validation] base to the folder of the round's base model.",
        )
    card = read_card(base)
    if card.sha256 != row.descriptor.base.sha256:
        raise ModelError(
            f"The base model to validate with is {card.name}, the round's is "
            f"{row.descriptor.base.name}.",
            hint="Set [validation] base to the folder of the round's base model.",
        )
    data = file_sha256(Path(section.data))
    what = [data, card.sha256, section.examples, section.max_length, FOLDS]
    return sha256(canonical_json(what))


def _measured(
    coordinator: Coordinator, row: RoundRow, uploads: Sequence[UploadRow]
) -> Iterator[tuple[str, ValidatedLoss]]:
    """The losses one by one. Raises BackendError, or what the process says is wrong."""
    section = coordinator.validation
    inputs = round_inputs(coordinator, row, uploads, {})
    with _engine(section) as ask:
        ask(
            Job(
                base=section.base,
                data=section.data,
                examples=section.examples,
                max_length=section.max_length,
            )
        )
        for update, upload in zip(inputs.updates, uploads, strict=True):
            schema = inputs.schema.model_copy(update={"rank": update.rank})
            with coordinator.blobs.plain_adapter(schema.shapes(), _whole(inputs, update)) as file:
                adapter = Adapter(
                    upload_id=upload.upload_id, weights=str(file), adapter_schema=schema
                )
                answer = Loss.model_validate(ask(adapter))
            yield answer.upload_id, ValidatedLoss(answer.loss, answer.variance)


def _whole(inputs: Inputs, update: Update) -> Tensors:
    """Both factors of the hospital's own model: what the round froze is the parent's."""
    live = next(sent := update.tensors(), None)
    for name, frozen in inputs.parent():
        if live is not None and live[0] == name:
            yield live
            live = next(sent, None)
        else:
            yield name, frozen


Ask = Callable[[Message], dict[str, Any]]


@contextmanager
def _engine(section: ValidationSection) -> Iterator[Ask]:
    """The process; it is asked one thing at a time and answers each within the time it has."""
    process = subprocess.Popen(
        [sys.executable, "-m", "coordinator.validation"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    answers: queue.Queue[str | None] = queue.Queue()
    readers = (
        threading.Thread(target=said.extend, args=(process.stderr,), daemon=True),
        threading.Thread(target=_pass_on, args=(process.stdout, answers), daemon=True),
    )
    for reader in readers:
        reader.start()
    stdin = process.stdin

    def ask(message: Message) -> dict[str, Any]:
        with suppress(BrokenPipeError):  # its end says more, and comes as an answer
            stdin.write(message.to_json().decode() + "\n")
            stdin.flush()
        try:
            line = answers.get(timeout=section.minutes * 60)
        except queue.Empty:
            raise BackendError(
                f"The engine did not answer for {section.minutes:g} min while validating.",
                hint="Give [validation] fewer examples or more minutes.",
            ) from None
        if line is None:
            readers[0].join(1)
            last = "".join(said).strip().splitlines()[-1:] or ["without a word"]
            raise BackendError(
                f"The engine ended while validating (code {process.wait()}): {last[0][:300]}",
                hint="Is the host's memory enough for the base model?",
            )
        ((kind, content),) = json.loads(line).items()
        if kind == Failure.__name__:
            raise BackendError(content["message"], hint=content["hint"])
        answer: dict[str, Any] = content
        return answer

    try:
        yield ask
    finally:
        process.kill()
        process.wait()


def _pass_on(lines: IO[str], answers: queue.Queue[str | None]) -> None:
    for line in lines:
        answers.put(line)
    answers.put(None)
