"""The demonstration's final measurement: every adapter on the pooled test items.

Only a demonstration can pool held-out data of several hospitals, since it made the data itself;
the product never does. Run as a process of its own, one for each share of the adapters.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance import adapters
from appliance.demo.settings import HOSPITALS, DemoPaths
from appliance.events import Event, as_record
from backends import choose
from backends.base import ChatMessage, Example, LoadedModel
from federation.files import write_atomically


@dataclass(frozen=True)
class Losses:
    """Each test item's mean loss in nats a completion token, and its number of such tokens."""

    loss: tuple[float, ...]
    n_tokens: tuple[int, ...]

    def mean(self) -> float:
        """The mean over all completion tokens."""
        weighted = sum(x * n for x, n in zip(self.loss, self.n_tokens, strict=True))
        return weighted / sum(self.n_tokens)

    def part(self, start: int, stop: int) -> Losses:
        """The items from ``start`` to before ``stop``."""
        return Losses(self.loss[start:stop], self.n_tokens[start:stop])


@dataclass(frozen=True)
class Difference:
    """A mean paired difference in nats a token, and its standard error."""

    mean: float
    standard_error: float


def paired_difference(first: Losses, second: Losses) -> Difference:
    """``first`` minus ``second``, item by item, weighted by tokens.

    The standard error is the linearised one of a ratio estimator (Cochran, Sampling Techniques,
    section 6.4): items are the sampling unit, not tokens, since tokens of one item depend on
    each other.
    """
    weights = first.n_tokens
    deltas = [a - b for a, b in zip(first.loss, second.loss, strict=True)]
    total = sum(weights)
    mean = sum(d * w for d, w in zip(deltas, weights, strict=True)) / total
    squares = sum((w * (d - mean)) ** 2 for d, w in zip(deltas, weights, strict=True))
    n = len(deltas)
    return Difference(mean, math.sqrt(squares * n / (n - 1)) / total)


def average(losses: Sequence[Losses]) -> Losses:
    """Item by item, the mean loss over several adapters."""
    items = zip(*(adapter.loss for adapter in losses), strict=True)
    return Losses(tuple(sum(item) / len(item) for item in items), losses[0].n_tokens)


def test_items(paths: DemoPaths, per_hospital: int) -> list[list[ChatMessage]]:
    """The pooled test items, ``per_hospital`` of each in the order of HOSPITALS."""
    items: list[list[ChatMessage]] = []
    for hospital in HOSPITALS:
        lines = (paths.data / "test" / f"{hospital}.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines[:per_hospital]:
            record = json.loads(line)
            items.append(
                [
                    {"role": "user", "content": record["question"]},
                    {"role": "assistant", "content": record["answer"]},
                ]
            )
    return items


def result_path(paths: DemoPaths, subject: str) -> Path:
    """Where the losses of base, federated or a hospital's name are kept."""
    return paths.results / f"losses-{subject}.json"


def read_losses(paths: DemoPaths, subject: str) -> Losses:
    """The losses that ``measure`` wrote."""
    data = json.loads(result_path(paths, subject).read_bytes())
    return Losses(tuple(data["loss"]), tuple(data["n_tokens"]))


def _attach(model: LoadedModel, paths: DemoPaths, subject: str) -> None:
    if subject == "base":
        model.detach()
        return
    if subject == "federated":
        globals_folder = paths.hospital(HOSPITALS[0]) / "adapters" / "global"
        folder = max(globals_folder.glob("[0-9]*"))
    else:
        folder = paths.hospital(subject) / "adapters" / "local"
    stored = adapters.load(folder)
    model.attach(stored.weights, stored.card.adapter_schema)


def measure(
    paths: DemoPaths, base: Path, subjects: Sequence[str], per_hospital: int, threads: int
) -> None:
    """Measure each subject and keep its losses; progress as JSON lines on standard output."""
    backend, _ = choose()
    model = backend.load(base, threads=threads)
    items = test_items(paths, per_hospital)
    examples: list[Example] = [model.encode(item, max_length=512) for item in items]
    for subject in subjects:
        _attach(model, paths, subject)

        def progress(event: Event, subject: str = subject) -> None:
            print(json.dumps({**as_record(event), "subject": subject}), flush=True)

        losses = model.losses(examples, progress)
        data = {"loss": [x.loss for x in losses], "n_tokens": [x.n_tokens for x in losses]}
        write_atomically(result_path(paths, subject), json.dumps(data).encode())


def main() -> None:
    """``python -m appliance.demo.measure ROOT BASE PER_HOSPITAL THREADS SUBJECT...``."""
    root, base, per_hospital, threads, *subjects = sys.argv[1:]
    measure(DemoPaths(Path(root)), Path(base), subjects, int(per_hospital), int(threads))


if __name__ == "__main__":
    main()
