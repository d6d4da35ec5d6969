"""FedMed against Flower 1.41 in one run: seconds a round, server memory, and two kills.

Flower pins other versions of what we use, so it gets an environment of its own first:

    python3 -m venv .flower
    .flower/bin/pip install flwr==1.41.0
    python -m benchmarks.vs_flower --flower .flower

Training is a sum on both sides: what is measured is transport, server and aggregation. Both speak
TLS on the loopback; ours also seals, signs and verifies every update, which Flower does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.vs_flower import fedmed_side, flower_side
from benchmarks.vs_flower.flower_side import Environment
from benchmarks.vs_flower.payload import Payload
from benchmarks.vs_flower.result import KillOutcome, RunOutcome

_KILL_PAYLOAD = Payload(megabytes=2, n_tensors=448)
_KILL_TRAIN_SECONDS = 20.0


def main() -> None:
    """Measure, print the table, and write the figures where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vs_flower", description=__doc__)
    parser.add_argument("--flower", type=Path, required=True, help="environment with flwr==1.41.0")
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--tensors", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    payload = Payload(arguments.megabytes, arguments.tensors)
    with tempfile.TemporaryDirectory(prefix="vs-flower-") as folder:
        root = Path(folder)
        ours = fedmed_side.measure(root / "fedmed", payload, arguments.rounds)
        _print_run("FedMed", ours)
        tls = root / "fedmed" / "coordinator" / "tls"
        programs = arguments.flower.absolute() / "bin"
        environment = Environment(programs, tls / "server.crt", tls / "server.key", tls / "ca.crt")
        theirs = flower_side.measure(root / "flower", environment, payload, arguments.rounds)
        _print_run("Flower", theirs)
        kills: dict[str, dict[str, KillOutcome]] = {}
        for victim in ("hospital", "server"):
            kills[victim] = {
                "FedMed": fedmed_side.kill(
                    root / f"fedmed-{victim}", _KILL_PAYLOAD, victim, _KILL_TRAIN_SECONDS
                ),
                "Flower": flower_side.kill(
                    root / f"flower-{victim}",
                    environment,
                    _KILL_PAYLOAD,
                    victim,
                    _KILL_TRAIN_SECONDS,
                ),
            }
            for side, outcome in kills[victim].items():
                _print_kill(victim, side, outcome)
    speed = statistics.median(theirs.seconds) / statistics.median(ours.seconds)
    memory = theirs.server_bytes / ours.server_bytes
    print(f"a round: {speed:.1f} x faster; server memory: {memory:.1f} x less")
    if arguments.out:
        figures = {
            "payload": asdict(payload),
            "fedmed": asdict(ours),
            "flower": asdict(theirs),
            "kills": {v: {s: asdict(o) for s, o in both.items()} for v, both in kills.items()},
        }
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


def _print_run(side: str, run: RunOutcome) -> None:
    rounds = ", ".join(f"{seconds:.1f}" for seconds in run.seconds)
    print(f"{side}: rounds of {rounds} s; server peak {run.server_bytes / 1e6:.0f} MB", flush=True)


def _print_kill(victim: str, side: str, outcome: KillOutcome) -> None:
    state = "completed" if outcome.completed else "NOT completed"
    print(
        f"{victim} killed, {side}: {state}, {outcome.delivered} of 2 updates, "
        f"{outcome.trainings} trainings begun; {outcome.detail}",
        flush=True,
    )


if __name__ == "__main__":
    main()
