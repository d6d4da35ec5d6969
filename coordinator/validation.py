"""The loss of a model on the coordinator's validation set: a process of its own.

The only module of the coordinator that uses an engine, and only when it runs: by
``python -m coordinator.validation``. It speaks JSON lines. In: a ``Job``, then an ``Adapter`` each;
out: a ``Ready``, then a ``Loss`` each, in order; or a ``Failure`` and the end. It ends with its
input, so also when the coordinator is killed.

    loss = sum_i n_i l_i / sum_i n_i over all examples i, of n_i completion tokens
    variance = sample variance of the same over each of the folds {i : i mod 5 = k}
"""

from __future__ import annotations

import json
import os
import queue
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from coordinator.aggregation import ValidatedLoss
from federation.adapter import AdapterSchema
from federation.canonical import Message
from federation.errors import DataError, FedMedError
from federation.messages import Hex16

if TYPE_CHECKING:
    from backends.base import ChatMessage, Example, ExampleLoss, LoadedModel

WORST = 1e4
"""What a loss that is larger or not finite counts as: one bad update must not hide the others'."""

FOLDS = 5
"""Into how many the set is dealt, one example after the other, so that each has all topics of a set
that is sorted by topic; a prime, so that topics that take turns do not become folds either."""

FOR_FOLDS = 2 * FOLDS
"""How many examples a set needs for folds: of one alone, a fold's loss is that example's."""


class Item(Message):
    """One line of the validation set."""

    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)


class Job(Message):
    """What to load: a base model's folder, and the first ``examples`` of a JSONL file."""

    base: str
    data: str
    examples: int = Field(gt=0)
    max_length: int = Field(gt=0)


class Adapter(Message):
    """One hospital's own model: a canonical safetensors file, both factors."""

    upload_id: Hex16
    weights: str
    adapter_schema: AdapterSchema


class Ready(Message):
    """The model is loaded, and so many examples are used."""

    examples: int


class Loss(Message):
    """The mean over all completion tokens, in nats, and its variance over folds."""

    upload_id: Hex16
    loss: float
    variance: float | None


class Failure(Message):
    """Why there is no loss, and what to do."""

    message: str
    hint: str


def read_items(path: Path, limit: int) -> list[Item]:
    """The set's first lines. Raises DataError naming the file and line."""
    hint = "Set [validation] data to a JSONL file of objects with question and answer."
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The validation set {path.name} cannot be read: {getattr(error, 'strerror', error)}.",
            hint=hint,
        ) from error
    items: list[Item] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            items.append(Item.model_validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise DataError(
                f"The validation set {path.name}, line {number}: {where} {problem['msg']}.",
                hint=hint,
            ) from error
        if len(items) == limit:
            break
    if not items:
        raise DataError(f"The validation set {path.name} is empty.", hint=hint)
    return items


def _examples(model: LoadedModel, items: Sequence[Item], max_length: int) -> list[Example]:
    conversations: list[list[ChatMessage]] = [
        [{"role": "user", "content": i.question}, {"role": "assistant", "content": i.answer}]
        for i in items
    ]
    return [model.encode(conversation, max_length=max_length) for conversation in conversations]


def over_folds(losses: Sequence[ExampleLoss]) -> ValidatedLoss:
    """The examples' mean a token, and its variance over folds; None of fewer than ``FOR_FOLDS``.

    A model that is as bad as can be counts as unsteady, too: all its folds may be alike.
    """
    loss = _mean(losses)
    if not loss <= WORST:
        loss = WORST
    if len(losses) < FOR_FOLDS:
        return ValidatedLoss(loss, None)
    if loss == WORST:
        return ValidatedLoss(loss, WORST)
    return ValidatedLoss(loss, statistics.variance(_mean(losses[k::FOLDS]) for k in range(FOLDS)))


def _mean(losses: Sequence[ExampleLoss]) -> float:
    return sum(x.loss * x.n_tokens for x in losses) / sum(x.n_tokens for x in losses)


def _lines() -> Iterator[str]:
    """Standard input as it comes; its end is the end of this process, whatever it does then."""
    waiting: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def _say(message: Message) -> None:
    print(json.dumps({type(message).__name__: message.model_dump()}), flush=True)


def main() -> None:
    """Load once, then one loss for each adapter, until the input ends."""
    from backends import choose

    lines = _lines()
    try:
        job = Job.model_validate_json(next(lines))
        items = read_items(Path(job.data), job.examples)
        backend, _ = choose()
        # One processor is left to the hospitals' requests.
        model = backend.load(Path(job.base), threads=max(1, (os.cpu_count() or 1) - 1))
        examples = _examples(model, items, job.max_length)
        _say(Ready(examples=len(examples)))
        for line in lines:
            adapter = Adapter.model_validate_json(line)
            model.attach(Path(adapter.weights), adapter.adapter_schema)
            found = over_folds(model.losses(examples))
            _say(Loss(upload_id=adapter.upload_id, loss=found.loss, variance=found.variance))
    except FedMedError as error:
        _say(Failure(message=str(error), hint=error.hint))


if __name__ == "__main__":
    main()
