"""Who looks unlike the others: honest hospitals are left alone, attackers are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from coordinator.aggregation import gram, gram_and_moves
from coordinator.anomalies import Figures, Finding, find_anomalies, odd_moves
from tests.aggregating import Made, inputs_of, trained

SIZE = 2000
TRIALS = 60


def honest(n: int, stream: np.random.Generator) -> np.ndarray:
    """(n, SIZE): changes with a common part of 15 to 70 %, one of the specialty, and their own.

    Pairs of hospitals have cosines from 0.2 to 0.8; two real ones of the demonstration 0.50. The
    norms differ by about 30 %.
    """
    unit = 1 / np.sqrt(SIZE)
    common = stream.normal(0, unit, SIZE)
    specialties = stream.normal(0, unit, (max(n // 2, 1), SIZE))
    own = stream.normal(0, unit, (n, SIZE))
    part = stream.uniform(0.15, 0.7, (n, 1))
    specialty = specialties[stream.integers(0, len(specialties), n)]
    mixed = np.sqrt(part) * common + np.sqrt((1 - part) * 0.3) * specialty
    mixed = mixed + np.sqrt((1 - part) * 0.7) * own
    found: np.ndarray = mixed * np.exp(stream.normal(0, 0.3, (n, 1)))
    return found


def attacked(changes: np.ndarray, kind: str, f: int, stream: np.random.Generator) -> np.ndarray:
    """The first f hospitals attack."""
    lying = changes.copy()
    for i in range(f):
        match kind:
            case "sign-flip":
                lying[i] = -lying[i]
            case "scaling":
                lying[i] = 10 * lying[i]
            case "noise":
                noise = stream.normal(size=SIZE)
                lying[i] = noise / np.linalg.norm(noise) * np.linalg.norm(changes[i])
    return lying


def findings(changes: np.ndarray) -> tuple[Finding, ...]:
    names = [f"h{i:02d}" for i in range(len(changes))]
    return find_anomalies(names, changes @ changes.T, {})


@pytest.mark.parametrize("n", [3, 4, 8])
def test_changes_that_have_nothing_in_common_any_more_are_left_alone(n: int) -> None:
    for seed in range(TRIALS):
        stream = np.random.default_rng(seed)
        assert not any(finding.suspicious for finding in findings(stream.normal(size=(n, SIZE))))


@pytest.mark.parametrize("n", [3, 4, 5, 8, 12, 20])
def test_honest_hospitals_of_different_specialties_are_left_alone(n: int) -> None:
    stream = np.random.default_rng(n)
    flagged = sum(f.suspicious for _ in range(TRIALS) for f in findings(honest(n, stream)))
    assert flagged <= 0.01 * TRIALS * n


@pytest.mark.parametrize("kind", ["sign-flip", "scaling", "noise"])
@pytest.mark.parametrize("n", [3, 4, 5, 8, 12, 20])
def test_attackers_are_found_and_nobody_else(n: int, kind: str) -> None:
    stream = np.random.default_rng(n)
    f = 1 if n < 8 else 2
    found = mistaken = 0
    for _ in range(TRIALS):
        result = findings(attacked(honest(n, stream), kind, f, stream))
        found += sum(finding.suspicious for finding in result[:f])
        mistaken += sum(finding.suspicious for finding in result[f:])
    assert found >= 0.92 * TRIALS * f
    assert mistaken <= 0.01 * TRIALS * (n - f)


def test_it_is_said_in_plain_words_with_the_numbers() -> None:
    stream = np.random.default_rng(1)
    changes = honest(4, stream)
    flipped = findings(attacked(changes, "sign-flip", 1, stream))[0]
    assert flipped.figures.cosine is not None
    assert flipped.reasons == (
        f"its change points away from the others': median cosine {flipped.figures.cosine:+.2f}, "
        f"among the others {flipped.figures.usual_cosine:+.2f}",
    )
    noisy = findings(attacked(changes, "noise", 1, stream))[0]
    assert noisy.reasons[0].startswith("its change has little in common with the others'")
    (large,) = findings(attacked(changes, "scaling", 1, stream))[0].reasons
    assert large.endswith(" x the size that is usual among the others")
    still = changes.copy()
    still[2] = 0
    assert findings(still)[2].reasons == ("it changed nothing",)
    assert findings(still)[2].figures.cosine is None
    alone = np.zeros_like(changes)
    alone[3] = changes[3]
    assert findings(alone)[3].reasons == ("it is the only one that changed anything",)
    assert not any(f.suspicious for f in findings(np.zeros_like(changes)))


@pytest.mark.parametrize("n", [1, 2])
def test_with_fewer_than_three_nobody_is_accused(n: int) -> None:
    changes = honest(2, np.random.default_rng(1))[:n]
    changes[0] *= -100
    result = findings(changes)
    assert not any(f.suspicious for f in result)
    assert (result[0].figures.cosine is None) == (n == 1)


def usual(cosine: float, ratio: float, rounds: int = 3) -> list[Figures]:
    return [Figures(ratio, cosine, cosine, ratio)] * rounds


def one_of_four(size: float = 1.0, turn: float = 0.0) -> Sequence[Finding]:
    """Hospitals that agree; the first is larger, or turned by an angle. With its past, judged."""
    stream = np.random.default_rng(2)
    changes = stream.normal(0, 1 / np.sqrt(SIZE), (4, SIZE)) + np.eye(1, SIZE)
    aside = np.eye(1, SIZE, 1)[0] * np.linalg.norm(changes[0])
    changes[0] = size * (np.cos(turn) * changes[0] + np.sin(turn) * aside)
    names = ["h00", "h01", "h02", "h03"]
    earlier = {name: usual(0.5, 1.0) for name in names}
    return find_anomalies(names, changes @ changes.T, earlier)


def test_a_drift_is_seen_before_it_is_odd_by_itself() -> None:
    assert not any(f.suspicious for f in one_of_four())
    grown = one_of_four(size=2.3)[0]
    assert len(grown.reasons) == 1
    assert "grew beside the others'" in grown.reasons[0]
    assert "1.0 x in its earlier rounds" in grown.reasons[0]
    turned = one_of_four(turn=1.25)[0]
    assert len(turned.reasons) == 1
    assert "turned away from the others'" in turned.reasons[0]
    assert "+0.50 in its earlier rounds" in turned.reasons[0]


def test_a_specialist_who_was_always_so_is_no_drift() -> None:
    changes = np.random.default_rng(2).normal(0, 1 / np.sqrt(SIZE), (4, SIZE)) + np.eye(1, SIZE)
    changes[0] *= 2.3
    names = ["h00", "h01", "h02", "h03"]
    always = {"h00": usual(0.5, 2.2), "h01": usual(0.5, 1.0, rounds=2)}
    result = find_anomalies(names, changes @ changes.T, always)
    assert not any(f.suspicious for f in result)


def test_real_updates_meet_through_their_factors() -> None:
    """From sealed factors to findings: one of four sends the opposite of what it learnt."""
    made = [trained(i, 5, turn=2, noise=0.3) for i in range(4)]
    parent = trained(0, 1, turn=2, noise=0).tensors
    flipped = {
        name: 2 * parent[name] - t if ".lora_B." in name else parent[name]
        for name, t in made[3].tensors.items()
    }
    kept = [
        {name: t if ".lora_B." in name else parent[name] for name, t in m.tensors.items()}
        for m in made
    ]
    updates = [Made(m.hospital, t) for m, t in zip(made, [*kept[:3], flipped], strict=True)]
    names = [m.hospital for m in updates]
    result = find_anomalies(names, gram(inputs_of(updates, 2)), {})
    assert [f.hospital for f in result if f.suspicious] == ["h03"]
    assert result[3].figures.cosine == pytest.approx(-1.0)


def in_other_factors(made: Made, size: float) -> Made:
    """The same Delta W: B is longer by ``size``, and A shorter."""
    factors = {True: np.float32(size), False: np.float32(1 / size)}
    return replace(made, tensors={n: factors[".lora_B." in n] * t for n, t in made.tensors.items()})


def test_an_honest_change_in_factors_that_would_ruin_a_mean_is_odd() -> None:
    made = [trained(i, 5, turn=2, noise=0.3) for i in range(4)]
    start = trained(0, 1, turn=2, noise=0).tensors
    dense = [np.sqrt(sum(np.square(m.tensors[n] - start[n]).sum() for n in start)) for m in made]
    np.testing.assert_allclose(gram_and_moves(inputs_of(made, 2))[1], dense, rtol=1e-6)
    names = [m.hospital for m in made]
    lying = [*made[:3], in_other_factors(made[3], 50)]
    assert odd_moves(gram_and_moves(inputs_of(made, 2))[1]) == [()] * 4
    np.testing.assert_allclose(gram(inputs_of(lying, 2)), gram(inputs_of(made, 2)), rtol=1e-5)
    assert find_anomalies(names, gram(inputs_of(lying, 2)), {})[3].reasons == ()
    *others, (reason,) = odd_moves(gram_and_moves(inputs_of(lying, 2))[1])
    assert others == [()] * 3
    assert reason.startswith("it moved the factors ")
    assert " x as far as is usual among the others" in reason


def test_factors_that_moved_little_or_of_two_hospitals_are_not_odd() -> None:
    assert odd_moves(np.array([1.0, 1.0, 1.0, 0.01])) == [()] * 4
    assert odd_moves(np.array([0.0, 0.0, 0.0, 1.0])) == [()] * 4
    assert odd_moves(np.array([1.0, 100.0])) == [()] * 2
    assert [bool(reasons) for reasons in odd_moves(np.array([1, 7, 1]))] == [False, True, False]
