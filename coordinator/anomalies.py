"""Does one hospital's change look unlike the others'? Figures for a person, and which are odd.

Everything comes from the Gram matrix <U_i, U_j> of what the hospitals changed this round
(``coordinator.aggregation.gram``), and each hospital is held against the median of the *others*, so
that nobody moves what it is measured by. A rule "z > 3" is no use here: among n values no z can
exceed (n - 1) / sqrt(n), which is below 3 up to n = 10.

Direction: the high median of its cosines with the others, which at least half of them reach. A
median *direction* of the others would be undefined at three hospitals, where the two others cancel
if one of them is flipped; the high median is then positive for the honest, whom one other agrees
with, and negative for the liar. Honest hospitals of different
specialties share a good part of their change: 0.50 between two of the demonstration's (SmolLM2,
12 steps), against 0.001 for noise of the same size. So a cosine under a quarter of what is usual
among the others, less a margin for chance, is odd. Near convergence honest changes have nothing in
common any more: where the usual cosine is below 0.05, only one beyond -0.05 is odd. The simulation
in the tests has the rates, docs/aggregation.md those of real trainings.

Size: its norm beside the middle of the others' (between the two middle ones of an even number: one
of two others may be the liar), odd beyond 3.5 robust standard deviations of their logarithms, but
never within a factor of 3 and always beyond one of 6. Hospitals that train for epochs differ by
their data, and then the others' spread says so; that of two others says nothing.

Factors: where the mean is one of factors, a change of usual size and direction does harm all the
same if its factors are unlike the others' (``coordinator.aggregation.gram_and_moves``). So how far
they moved is held to the same bounds, upwards only.

Drift: against what the hospital itself did in earlier rounds: twice its own usual relative norm,
or less than half its own usual cosine. So a slow turn is seen before it is large, while a
specialist who has always been different is not reported every round for that alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEAST_HOSPITALS = 3
"""With fewer nobody can tell which of two is the odd one."""

_DIRECTION_PART, _DIRECTION_MARGIN = 0.25, 0.01
_UNRELATED = 0.05
_SIZE_LEAST, _SIZE_MOST, _SIZE_DEVIATIONS = 3.0, 6.0, 3.5
_DRIFT_ROUNDS = 3
_DRIFT_SIZE, _DRIFT_COSINE, _DRIFT_MARGIN = 2.0, 0.5, 0.05


@dataclass(frozen=True)
class Figures:
    """One hospital's change in one round, beside the others'.

    ``cosine`` is the high median of its cosines with the others, None if it changed nothing or is
    alone; ``usual_cosine`` the median of the others' own; ``norm_ratio`` its norm over the median
    norm of the others, None where that is zero or there are no others.
    """

    norm: float
    cosine: float | None
    usual_cosine: float | None
    norm_ratio: float | None


@dataclass(frozen=True)
class Finding:
    """A hospital's figures, and in words what is odd about them; nothing odd, no words."""

    hospital: str
    figures: Figures
    reasons: tuple[str, ...]

    @property
    def suspicious(self) -> bool:
        """Whether a person should look at the update before it is used."""
        return bool(self.reasons)


def find_anomalies(
    hospitals: Sequence[str],
    gram: np.ndarray,
    earlier: Mapping[str, Sequence[Figures]],
) -> tuple[Finding, ...]:
    """One finding a hospital, in the order given.

    ``gram`` (n, n) float64 is <U_i, U_j> in that order; ``earlier`` each hospital's figures of
    earlier rounds in which it was not suspicious, oldest first, possibly empty. Below three
    hospitals there are figures, and nothing is odd.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    cosines = _median_cosines(gram, norms)
    found: list[Finding] = []
    for i, hospital in enumerate(hospitals):
        others = np.delete(norms, i)
        figures = Figures(
            norm=float(norms[i]),
            cosine=_known(cosines[i]),
            usual_cosine=_known(_median(np.delete(cosines, i))),
            norm_ratio=_ratio(float(norms[i]), others),
        )
        reasons: list[str] = []
        if len(hospitals) >= LEAST_HOSPITALS:
            reasons += _direction(figures) + _size(figures, others)
            reasons += _drift(figures, earlier.get(hospital, ()))
        found.append(Finding(hospital, figures, tuple(reasons)))
    return tuple(found)


def odd_moves(moves: np.ndarray) -> list[tuple[str, ...]]:
    """In words, for each hospital, that it moved the factors much farther than the others did.

    ``moves`` (n,) are of ``coordinator.aggregation.gram_and_moves``. With fewer than three
    hospitals, or where no other moved them, nothing is odd.
    """
    found: list[tuple[str, ...]] = []
    for i, move in enumerate(moves):
        others = np.delete(moves, i)
        comparable = len(moves) >= LEAST_HOSPITALS and move > 0 and (others > 0).any()
        times = _odd_times(float(move), others) if comparable else None
        if times is None or times < 1:
            found.append(())
        else:
            far = f"it moved the factors {times:.2g} x as far as is usual among the others"
            found.append((f"{far}, so that their mean would not be that of the changes",))
    return found


def _median_cosines(gram: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """(n,): the high median over the others of the cosine with each; nan without a direction."""
    n = len(norms)
    directed = np.flatnonzero(norms > 0)
    found = np.full(n, np.nan)
    for i in directed:
        others = directed[directed != i]
        if len(others):
            each = np.sort(gram[i, others] / (norms[i] * norms[others]))
            found[i] = each[len(each) // 2]
    return found


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _ratio(norm: float, others: np.ndarray) -> float | None:
    middle = float(np.median(others)) if len(others) else 0.0
    return norm / middle if middle > 0 else None


def _direction(figures: Figures) -> list[str]:
    if figures.cosine is None or figures.usual_cosine is None:
        return []
    related = figures.usual_cosine >= _UNRELATED
    limit = _DIRECTION_PART * figures.usual_cosine - _DIRECTION_MARGIN if related else -_UNRELATED
    if figures.cosine >= limit:
        return []
    what = (
        "points away from" if figures.cosine < -_DIRECTION_MARGIN else "has little in common with"
    )
    return [
        f"its change {what} the others': median cosine {figures.cosine:+.2f}, "
        f"among the others {figures.usual_cosine:+.2f}"
    ]


def _size(figures: Figures, others: np.ndarray) -> list[str]:
    if figures.norm == 0:
        return ["it changed nothing"] if (others > 0).any() else []
    if not (others > 0).any():
        return ["it is the only one that changed anything"]
    if (times := _odd_times(figures.norm, others)) is None:
        return []
    return [f"its change is {times:.2g} x the size that is usual among the others"]


def _odd_times(size: float, others: np.ndarray) -> float | None:
    """How many times the middle of the others a size above zero is, where that is odd."""
    sizes = np.sort(np.log(others[others > 0]))
    deviation = float(np.median(np.abs(sizes - np.median(sizes)))) if len(sizes) > 2 else 0.0
    own = math.log(size)
    away = own - float(np.clip(own, sizes[(len(sizes) - 1) // 2], sizes[len(sizes) // 2]))
    widest = _SIZE_DEVIATIONS * 1.4826 * deviation
    limit = np.clip(widest, math.log(_SIZE_LEAST), math.log(_SIZE_MOST))
    return math.exp(away) if abs(away) > limit else None


def _drift(now: Figures, earlier: Sequence[Figures]) -> list[str]:
    if len(earlier) < _DRIFT_ROUNDS:
        return []
    reasons: list[str] = []
    ratio = _median(np.array([f.norm_ratio for f in earlier], dtype=np.float64))
    if now.norm_ratio is not None and now.norm_ratio > _DRIFT_SIZE * ratio:
        reasons.append(
            f"its change grew beside the others': {now.norm_ratio:.1f} x theirs, "
            f"{ratio:.1f} x in its earlier rounds"
        )
    cosine = _median(np.array([f.cosine for f in earlier], dtype=np.float64))
    if now.cosine is not None and now.cosine < _DRIFT_COSINE * max(cosine, 0.0) - _DRIFT_MARGIN:
        reasons.append(
            f"its change turned away from the others': median cosine {now.cosine:+.2f}, "
            f"{cosine:+.2f} in its earlier rounds"
        )
    return reasons
