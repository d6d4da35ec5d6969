import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.aggregation_quality.measured import (
    Interval,
    Results,
    accuracy,
    auroc,
    majority,
    rarer,
)
from benchmarks.aggregation_quality.report import PAGE, RESULTS, compared, filled, read_all

Cell = dict[str, Any]


def _cell(aggregator: str, seed: int, *losses: float, attack: str = "none", **more: object) -> Cell:
    hospitals = {name: {"loss": loss} for name, loss in zip("abc", losses, strict=False)}
    cell = {"task": "t", "aggregator": aggregator, "attack": attack, "attackers": 0, "seed": seed}
    more = {"weights": {"a": 0.25, "b": 0.75, "c": 0.0}} | more
    return cell | {"detector": False, "validated": False, "hospitals": hospitals} | more


def _results(folder: Path, *cells: Cell) -> Results:
    file = folder / "aggregation-t.json"
    file.write_text(json.dumps(cells))
    return Results.read(file)


def test_interval_is_student_t() -> None:
    found = Interval.of([1.0, 2.0, 3.0])
    assert (found.mean, found.half) == pytest.approx((2.0, 4.303 / math.sqrt(3)))
    assert Interval.of([1.0]).text() == "1.000"


def test_mean_and_worst_are_paired_with_fedavg_by_seed(tmp_path: Path) -> None:
    found = _results(
        tmp_path,
        _cell("fedavg", 0, 1.0, 3.0),
        _cell("fedavg", 1, 2.0, 4.0),
        _cell("equal", 0, 1.0, 2.0),
        _cell("equal", 1, 2.0, 3.0),
    )
    # By size: 0.25 x 1 + 0.75 x 2 and one more with the other seed, so 2.25.
    # Each seed alone differs by as much, so that there is no spread, however far seeds are apart.
    mean = found.difference("equal", "none", "mean")
    worst = found.difference("equal", "none", "worst")
    assert mean == Interval(-0.5, 0.0)
    assert worst == Interval(-1.0, 0.0)
    assert (
        "| `equal` | 2.000 ± 6.353 | 2.500 ± 6.353 | 2.250 ± 6.353 | -0.500 ± 0.000 |"
        in compared(found, "none")
    )


def test_an_attack_is_compared_over_those_who_never_lie(tmp_path: Path) -> None:
    lies = _cell("fedavg", 0, attack="noise") | {"hospitals": {"b": {"loss": 3.0}}}
    found = _results(tmp_path, _cell("fedavg", 0, 1.0, 2.0), lies)
    assert found.names("noise") == ["b"]
    assert found.losses("fedavg", "none", "mean", found.honest) == {0: 2.0}


def test_rule_without_enough_hospitals_is_not_applicable(tmp_path: Path) -> None:
    krum = _cell("multi-krum", 0, not_applicable="needs 5 hospitals")
    krum["hospitals"] = {}
    found = _results(tmp_path, _cell("fedavg", 0, 1.0), krum)
    assert "| `multi-krum` | n/a |" in compared(found, "none")


def test_figures_of_labels() -> None:
    hospital = {"scores": [2.0, 1.0, 1.0, -1.0], "truth": [True, True, False, True]}
    assert (accuracy(hospital), majority(hospital)) == (0.5, 0.75)
    assert majority({"truth": [False, True, False, False]}) == 0.75
    assert rarer(hospital) == 1
    assert auroc(hospital) == pytest.approx(1.5 / 3)
    assert math.isnan(auroc({"scores": [1.0], "truth": [True]}))


def test_the_page_shows_the_committed_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table ") >= len(read_all(RESULTS))
    assert filled(page, read_all(RESULTS)) == page
