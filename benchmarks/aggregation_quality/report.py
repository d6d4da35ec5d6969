"""Put the measured tables and plots into docs/aggregation.md.

    python -m benchmarks.aggregation_quality.report

Reads benchmarks/results/aggregation-TASK.json. The page says where each table goes: between
`<!-- table NAME TASK [ATTACK] -->` and `<!-- end -->`; the rest of it is written by people.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks.aggregation_quality.measured import (
    How,
    Interval,
    Results,
    accuracy,
    auroc,
    majority,
)
from benchmarks.aggregation_quality.plots import draw

_ROOT = Path(__file__).resolve().parents[2]
RESULTS = _ROOT / "benchmarks" / "results"
PAGE = _ROOT / "docs" / "aggregation.md"
IMAGES = _ROOT / "docs" / "images"
_MARKED = re.compile(r"(<!-- table (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_MISSING = "–"


def main() -> None:
    """Rewrite the page's tables and the plots."""
    results = read_all(RESULTS)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    draw(results, IMAGES)


def read_all(folder: Path) -> dict[str, Results]:
    """By task, what has been measured."""
    files = sorted(folder.glob("aggregation-*.json"))
    return {file.stem.removeprefix("aggregation-"): Results.read(file) for file in files}


def filled(page: str, results: Mapping[str, Results]) -> str:
    """The page with its tables made anew; one of a task without results is left empty."""

    def table(found: re.Match[str]) -> str:
        name, task, *rest = found[2].split()
        made = TABLES[name](results[task], *rest) if task in results else ""
        return f"{found[1]}{made}{found[3]}"

    return _MARKED.sub(table, page)


_HOW: tuple[How, ...] = ("mean", "worst", "by size")


def compared(results: Results, attack: str) -> str:
    """Loss over hospitals, each alike, the worst and by size, and all against fedavg."""
    rows = []
    for label in results.labels:
        if not results.applies(label, attack):
            rows.append([f"`{label}`", "n/a", *[""] * 5])
        elif results.of(label, attack):
            losses = [list(results.losses(label, attack, how).values()) for how in _HOW]
            differences = [results.difference(label, attack, how) for how in _HOW]
            rows.append(
                [
                    f"`{label}`",
                    *(Interval.of(loss).text() for loss in losses),
                    *(_difference(label, found) for found in differences),
                ]
            )
    heads = ["", *_HOW, *(f"{how} − `fedavg`" for how in _HOW)]
    return _markdown(heads, rows)


def _difference(label: str, found: Interval | None) -> str:
    return _MISSING if found is None or label == "fedavg" else found.text("+")


def _by_attack(results: Results, text: Callable[[str, str], str]) -> str:
    rows = [
        [f"`{label}`", *(text(label, attack) for attack in results.attacks)]
        for label in results.labels
        if any(results.of(label, attack) for attack in results.attacks if attack != "none")
    ]
    return _markdown(["", *results.attacks], rows)


def attacked(results: Results, how: How) -> str:
    """Held-out loss of the hospitals that do not lie, by attack."""

    def text(label: str, attack: str) -> str:
        if not results.applies(label, attack):
            return "n/a"
        values = results.losses(label, attack, how, results.honest)
        return Interval.of(list(values.values())).text() if values else _MISSING

    return _by_attack(results, text)


def difference(results: Results, how: How) -> str:
    """Loss minus that of fedavg under the same attack."""
    return _by_attack(
        results,
        lambda label, attack: _difference(label, results.difference(label, attack, how)),
    )


def against(results: Results, label: str) -> str:
    """An aggregator's loss minus fedavg's and minus that of equal weights."""
    rows = []
    for reference in ("fedavg", "equal"):
        for how in _HOW:
            found = [results.difference(label, a, how, reference) for a in results.attacks]
            rows.append([f"minus `{reference}`, {how}", *(_difference(label, f) for f in found)])
    return _markdown([f"`{label}`", *results.attacks], rows)


def detected(results: Results) -> str:
    """Whom the anomaly detector left out, over all rounds and seeds: liars, honest hospitals."""

    def text(label: str, attack: str) -> str:
        cells = results.of(label, attack).values()
        if not cells:
            return _MISSING
        liars = sum(m.cell.attackers * len(m.excluded) for m in cells)
        honest = sum(len(m.hospitals) * len(m.excluded) for m in cells)
        left_out = [(name in m.hospitals) for m in cells for names in m.excluded for name in names]
        wrong = sum(left_out)
        return f"{len(left_out) - wrong} of {liars}; {wrong} of {honest}"

    rows = [
        [f"`{label}`", *(text(label, attack) for attack in results.attacks)]
        for label in results.labels
        if label.endswith("/detector")
    ]
    return _markdown(["", *results.attacks], rows)


def labelled(results: Results, figure: str, attack: str) -> str:
    """Accuracy, or AUROC where a hospital has enough of both labels, by hospital."""
    measure = {"accuracy": accuracy, "auroc": auroc}[figure]
    names = results.ranked(attack) if figure == "auroc" else results.names(attack)
    rows = []
    if figure == "accuracy":
        any_one = next(m for m in results.cells if m.cell.attack == attack and m.hospitals)
        rates = any_one.over(majority, names)
        rows.append(["always the majority", *_figures([[r] for r in rates])])
    for label in results.labels:
        cells = results.of(label, attack)
        if cells:
            by_seed = [m.over(measure, names) for m in cells.values()]
            rows.append([f"`{label}`", *_figures(list(zip(*by_seed, strict=True)))])
    return _markdown(["", *names, "mean", "worst"], rows)


def _figures(by_hospital: Iterable[Iterable[float]]) -> list[str]:
    """Each hospital's mean over seeds, then the interval of their mean and of their worst."""
    values = [list(v) for v in by_hospital]
    by_seed = list(zip(*values, strict=True))
    return [
        *(f"{Interval.of(v).mean:.2f}" for v in values),
        Interval.of([sum(s) / len(s) for s in by_seed]).text(digits=2),
        Interval.of([min(s) for s in by_seed]).text(digits=2),
    ]


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: Mapping[str, Callable[..., str]] = {
    "compared": compared,
    "attacked": attacked,
    "difference": difference,
    "against": against,
    "detected": detected,
    "labelled": labelled,
}
"""A table's name in the page -> what makes it from a task's results and the words after it."""


if __name__ == "__main__":
    main()
