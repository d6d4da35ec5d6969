"""Tokens a second and seconds left, by an injected clock."""

from __future__ import annotations

from backends.meter import Meter


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_speed_counts_training_only_and_time_left_everything() -> None:
    clock = Clock()
    meter = Meter(of=4, clock=clock)
    clock.now += 2
    first = meter.step(loss=3.0, learning_rate=0.1, grad_norm=1.0, n_tokens=100)
    assert (first.step, first.of, first.n_tokens) == (1, 4, 100)
    assert (first.tokens_per_second, first.seconds_left) == (50.0, 6.0)
    with meter.pause():
        clock.now += 4
    clock.now += 2
    second = meter.step(loss=2.0, learning_rate=0.1, grad_norm=1.0, n_tokens=60)
    assert (second.tokens_per_second, second.seconds_left) == (40.0, 8.0)
    result = meter.result(peak_memory_bytes=7)
    assert (result.steps, result.step_losses, result.n_tokens) == (2, (3.0, 2.0), 160)
    assert (result.seconds, result.peak_memory_bytes) == (8.0, 7)


def test_a_training_that_goes_on_counts_all_but_reckons_with_its_own_speed() -> None:
    clock = Clock()
    meter = Meter(of=4, clock=clock)
    clock.now += 50
    meter.resume((3.0, 2.0), n_tokens=1000, seconds=20.0)
    clock.now += 4
    third = meter.step(loss=1.0, learning_rate=0.1, grad_norm=1.0, n_tokens=100)
    assert (third.step, third.tokens_per_second, third.seconds_left) == (3, 25.0, 4.0)
    result = meter.result(peak_memory_bytes=7)
    assert (result.steps, result.step_losses) == (3, (3.0, 2.0, 1.0))
    assert (result.n_tokens, result.seconds) == (1100, 24.0)
