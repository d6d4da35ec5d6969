"""What the demonstration found, from its files: the tables of terminal and report."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from appliance.demo.measure import Difference, Losses, average, paired_difference, read_losses
from appliance.demo.settings import (
    ATTACKER,
    HOSPITALS,
    DemoPaths,
    DemoSettings,
    step_result,
)
from appliance.paths import Paths
from appliance.rounds.global_adapter import RECORD
from appliance.rounds.participation import read_metadata
from appliance.session import Traffic, read_traffic
from federation.base_model import read_card
from federation.records import RoundRecord
from federation.signing import SignedDocument


@dataclass(frozen=True)
class Row:
    """One line of the table: losses on one set of test items, in nats a completion token.

    ``gain`` is local-only minus federated, paired by item: positive where federating helped.
    """

    name: str
    n_items: int
    base: float
    local: float
    federated: float
    gain: Difference
    gain_over_base: Difference


@dataclass(frozen=True)
class Part:
    """One hospital's part in one round; ``weight`` is None where its update was left out."""

    round: int
    hospital: str
    weight: float | None
    why: str

    @property
    def shown_weight(self) -> str:
        """For a table."""
        return "left out" if self.weight is None else f"{self.weight:.3f}"


@dataclass(frozen=True)
class Curve:
    """A hospital's held-out loss of the global adapter of rounds 0, 1, ... and, one shorter, of
    its own adapter after training in rounds 1, 2, ..."""

    global_adapter: tuple[float, ...]
    own_adapter: tuple[float, ...]


@dataclass(frozen=True)
class Results:
    """Everything the report shows."""

    settings: DemoSettings
    own: tuple[Row, ...]
    pooled: tuple[Row, ...]
    overall: Row
    overlap: int
    curves: dict[str, Curve]
    traffic: dict[str, Traffic]
    base_bytes: int
    records: tuple[RoundRecord, ...]
    answers: dict[str, dict[str, object]]
    source: dict[str, object]


def _row(name: str, base: Losses, local: Losses, federated: Losses) -> Row:
    return Row(
        name,
        len(base.loss),
        base.mean(),
        local.mean(),
        federated.mean(),
        paired_difference(local, federated),
        paired_difference(base, federated),
    )


def parts(results: Results) -> list[Part]:
    """Who counted how much in each round and who was left out, from the signed records."""
    found: list[Part] = []
    for record in results.records:
        found += [
            Part(record.round, c.hospital, c.weight, c.explanation) for c in record.contributions
        ]
        found += [Part(record.round, r.hospital, None, r.reason) for r in record.rejections]
    return found


def attack_line(results: Results) -> str:
    """What became of the attack, from records and measurement; empty where nobody lied."""
    if results.settings.attack == "none":
        return ""
    own = [part for part in parts(results) if part.hospital == ATTACKER]
    left_out = sum(part.weight is None for part in own)
    most = max((part.weight for part in own if part.weight is not None), default=0.0)
    gain = results.overall.gain_over_base
    return (
        f"Attack {results.settings.attack}: {ATTACKER} was left out of {left_out} of "
        f"{len(results.records)} rounds, its largest weight was {most:.2f}. The federated model is "
        f"{abs(gain.mean):.3f} ± {gain.standard_error:.3f} nats a token "
        f"{'better' if gain.mean > 0 else 'worse'} than the base model."
    )


def perplexity(loss: float) -> float:
    """e to the loss."""
    return math.exp(loss)


def confidence(answer: dict[str, object]) -> str:
    """An answer's confidence for people; a refused question has none."""
    value = answer["confidence"]
    return f"{value:.2f}" if isinstance(value, float) else "none"


def source_line(results: Results) -> str:
    """Where the data come from, under which licence, and whose work they are."""
    s = results.source
    return f"{s['source']}, release {s['release']}; {s['licence']}; {s['attribution']}"


def read_records(home: Paths, rounds: int) -> tuple[RoundRecord, ...]:
    """The round records that a hospital verified and kept, in order of rounds."""
    found = []
    for number in range(1, rounds + 1):
        text = (home.round(number) / RECORD).read_bytes()
        signed = SignedDocument.model_validate_json(text)
        found.append(RoundRecord.model_validate_json(signed.body))
    return tuple(found)


def read_curve(paths: DemoPaths, hospital: str, rounds: int) -> Curve:
    """One hospital's held-out losses round by round, as it measured them itself."""
    home = Paths(paths.hospital(hospital))
    trained = [read_metadata(home.round(number)) for number in range(1, rounds + 1)]
    kept = [metadata for metadata in trained if metadata is not None]
    synced = json.loads(step_result(paths, "final", hospital).read_bytes())
    before = [metadata.loss_before for metadata in kept]
    return Curve((*before, float(synced["loss"])), tuple(m.loss_after for m in kept))


def collect(paths: DemoPaths, settings: DemoSettings, base_name: str) -> Results:
    """Read every file of a finished demonstration."""
    base, federated = read_losses(paths, "base"), read_losses(paths, "federated")
    local = {hospital: read_losses(paths, hospital) for hospital in HOSPITALS}
    n = settings.test_items
    own, pooled = [], []
    for index, hospital in enumerate(HOSPITALS):
        start, stop = index * n, (index + 1) * n
        own.append(
            _row(
                hospital,
                base.part(start, stop),
                local[hospital].part(start, stop),
                federated.part(start, stop),
            )
        )
        pooled.append(_row(hospital, base, local[hospital], federated))
    data = json.loads((paths.results / "data.json").read_bytes())
    homes = {hospital: Paths(paths.hospital(hospital)) for hospital in HOSPITALS}
    return Results(
        settings=settings,
        own=tuple(own),
        pooled=tuple(pooled),
        overall=_row("all hospitals", base, average(list(local.values())), federated),
        overlap=int(data["overlap"]),
        curves={h: read_curve(paths, h, settings.rounds) for h in HOSPITALS},
        traffic={h: read_traffic(home) for h, home in homes.items()},
        base_bytes=read_card(paths.models / base_name).n_bytes,
        records=read_records(homes[HOSPITALS[0]], settings.rounds),
        answers=json.loads((paths.results / "answers.json").read_bytes()),
        source=data["source"],
    )
