"""The plots of docs/aggregation.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.aggregation_quality.measured import How, Interval, Results, auroc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Mapping[How, str] = {"mean": "#1f5fa8", "worst": "#c8551b"}
_SITES = ("#1f5fa8", "#c8551b", "#3a8f4d", "#7a4fa0")
_SHIFTS: tuple[tuple[How, float], ...] = (("mean", -0.15), ("worst", 0.15))
_REFERENCES = ("base", "local", "pooled")


def draw(results: Mapping[str, Results], folder: Path) -> None:
    """Write a PNG for each plot whose task has results."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    small = {t: results[t] for t in ("small-4", "small-8") if t in results}
    if small:
        _undisturbed(small, folder / "aggregation-undisturbed.png")
        _attacks(small, folder / "aggregation-attacks.png")
    if "questions" in results:
        _questions(results["questions"], folder / "aggregation-questions.png")
    if "heart" in results:
        _heart(results["heart"], folder / "aggregation-heart.png")


def _undisturbed(tasks: Mapping[str, Results], file: Path) -> None:
    """Every aggregator's loss minus that of fedavg, when nobody lies."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(tasks), figsize=(4.8 * len(tasks), 4.2), squeeze=False, layout="constrained"
    )
    for axis, (task, results) in zip(axes[0], tasks.items(), strict=True):
        # The detector has a table of its own, and intervals that would hide all others.
        left_out = {*_REFERENCES, "fedavg", *(x for x in results.labels if "/detector" in x)}
        labels = [x for x in results.labels if x not in left_out and results.of(x, "none")]
        for how, shift in _SHIFTS:
            for row, label in enumerate(labels):
                found = results.difference(label, "none", how)
                if found:
                    _dot(axis, found, row + shift, _COLOURS[how], how if row == 0 else "")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.set_title(f"{task}: held-out loss minus fedavg's")
        axis.set_xlabel("nats a token, left is better; bars: 95 % interval over seeds")
        axis.legend(frameon=False, loc="center", bbox_to_anchor=(0.52, 0.64))
    _save(figure, file)


def _dot(axis: Axes, found: Interval, y: float, colour: str, label: str) -> None:
    half = found.half if math.isfinite(found.half) else 0.0
    axis.errorbar(found.mean, y, xerr=half, fmt="o", color=colour, markersize=3.5, label=label)


def _attacks(tasks: Mapping[str, Results], file: Path) -> None:
    """How much held-out loss an attack adds at honest hospitals, to fedavg without liars."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(tasks), figsize=(5.4 * len(tasks), 4.8), squeeze=False, layout="constrained"
    )
    for axis, (task, results) in zip(axes[0], tasks.items(), strict=True):
        labels = [
            label
            for label in results.labels
            if any(results.of(label, a) for a in results.attacks if a != "none")
        ]
        mean = _means(results, labels)
        added = mean - _means(results, ["fedavg"])[0, 0]
        image = axis.imshow(added, cmap="RdYlGn_r", vmin=-0.05, vmax=0.25, aspect="auto")
        for (row, column), value in np.ndenumerate(mean):
            text = f"{value:.2f}" if math.isfinite(value) else "n/a"
            axis.text(column, row, text, ha="center", va="center", fontsize=7)
        axis.set_xticks(range(len(results.attacks)), results.attacks, rotation=30, ha="right")
        axis.set_yticks(range(len(labels)), labels)
        liars = max(m.cell.attackers for m in results.cells)
        axis.set_title(f"{task}: mean held-out loss of the honest, {liars} liar(s)")
    figure.colorbar(image, ax=axes[0], label="nats above fedavg without liars", shrink=0.7)
    _save(figure, file)


def _means(results: Results, labels: list[str]) -> np.ndarray:
    found = np.full((len(labels), len(results.attacks)), np.nan)
    for row, label in enumerate(labels):
        for column, attack in enumerate(results.attacks):
            losses = results.losses(label, attack, "mean", results.honest)
            if losses:
                found[row, column] = Interval.of(list(losses.values())).mean
    return found


def _questions(results: Results, file: Path) -> None:
    """SmolLM2's held-out loss, mean and worst hospital, without and with the attack."""
    from matplotlib import pyplot

    attacks = results.attacks
    figure, axes = pyplot.subplots(
        1, len(attacks), figsize=(4.8 * len(attacks), 3.6), squeeze=False, layout="constrained"
    )
    for axis, attack in zip(axes[0], attacks, strict=True):
        labels = [label for label in results.labels if results.of(label, attack)]
        for how, shift in _SHIFTS:
            for row, label in enumerate(labels):
                losses = results.losses(label, attack, how)
                found = Interval.of(list(losses.values()))
                _dot(axis, found, row + shift, _COLOURS[how], how if row == 0 else "")
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.set_title(f"questions, SmolLM2: {'nobody lies' if attack == 'none' else attack}")
        axis.set_xlabel("held-out loss, nats a token (left is better)")
        axis.legend(title="hospital", frameon=False, loc="center right")
    _save(figure, file)


def _heart(results: Results, file: Path) -> None:
    """AUROC by hospital, without and with the attack."""
    from matplotlib import pyplot

    attacks = results.attacks
    figure, axes = pyplot.subplots(
        1, len(attacks), figsize=(4.8 * len(attacks), 3.6), squeeze=False, layout="constrained"
    )
    colours = dict(zip(results.hospitals, _SITES, strict=True))
    for axis, attack in zip(axes[0], attacks, strict=True):
        labels = [label for label in results.labels if results.of(label, attack)]
        for name in results.ranked(attack):
            for row, label in enumerate(labels):
                values = [auroc(m.hospitals[name]) for m in results.of(label, attack).values()]
                shown = name if row == 0 else ""
                _dot(axis, Interval.of(values), row, colours[name], shown)
        axis.axvline(0.5, color="black", linewidth=0.8)
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.set_title(f"heart disease, SmolLM2: {'nobody lies' if attack == 'none' else attack}")
        axis.set_xlabel("AUROC (right is better; 0.5 knows nothing)")
        axis.legend(frameon=False, loc="best")
    _save(figure, file)


def _save(figure: object, file: Path) -> None:
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    assert isinstance(figure, Figure)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Without the program's version, so that the same results give the same bytes.
    figure.savefig(file, dpi=130, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
