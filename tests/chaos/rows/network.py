"""A line that cuts, delays, repeats and reorders, in uploads and downloads of several parts."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from tests.chaos.federation import Broken, Federation, Stages
from tests.chaos.finishing import check_transfers, examine, finish, receipts
from tests.chaos.proxy import Proxy, Trouble
from tests.chaos.rows import Options, Result

WHAT = "network: a proxy that cuts, delays, repeats and reorders"

RANK = 64
PART = 4 << 10
_DOWNLOADS = 3
"""What is downloaded in a round that b has delivered for: the parent by a, the result by both."""
_CUTS = 200
_A_ROUND = 20


def carry_out(stages: Stages, folder: Path, seed: int, cuts: int) -> Proxy:
    """Finish round 1 over a line that is broken ``cuts`` times; answers what the line did.

    Raises Broken for a broken promise, or when a cut cost more than one part.
    """
    made = stages.half.copy(folder)
    server = made.serve()
    proxy = Proxy(made.home("coordinator") / "tls", made.port, Trouble(seed, cuts))
    with proxy.running():
        made.move_to(proxy.port)
        finish(made, server)
        server.wait(0)
    examine(made, stages)
    check_transfers(made.runs("a-train"))
    _check_costs(made, stages, proxy)
    shutil.rmtree(folder)
    return proxy


def _check_costs(made: Federation, stages: Stages, proxy: Proxy) -> None:
    ours = next(u for u, r in receipts(made).items() if r["hospital"] == "a")
    length = next(
        event["of"]
        for run in made.runs("a-train")
        for event in run.events()
        if event.get("event") == "Transfer" and event["direction"] == "sent"
    )
    resent = proxy.parts[ours] - -(-length // PART)
    if resent > proxy.upload_cuts:
        raise Broken(f"{resent} parts sent again after {proxy.upload_cuts} cuts")
    length = len(stages.undisturbed)
    again = proxy.received - _DOWNLOADS * length
    if again > proxy.download_cuts * PART:
        raise Broken(f"{again} bytes received again after {proxy.download_cuts} cuts")
    taken = {status for status in proxy.repeated if not status.startswith("4")}
    if taken:
        raise Broken(f"a repeated request was answered {taken}")


def run(options: Options) -> Result:
    """Break the line ``share(200)`` times over as many rounds as that takes."""
    stages = Stages(options.folder, rank=RANK, part=PART)
    assert stages.undisturbed
    wanted, rounds = options.share(_CUTS), 0
    done: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    failures: list[str] = []
    cuts = upload_cuts = parts = download_cuts = 0
    while cuts < wanted and rounds < 2 * _CUTS:
        folder = options.folder / f"round-{rounds}"
        seed = options.seed + rounds
        rounds += 1
        try:
            proxy = carry_out(stages, folder, seed, min(_A_ROUND, wanted - cuts))
        except Broken as error:
            failures.append(f"seed {seed}: {error}")
            continue
        done += proxy.done
        repeated += proxy.repeated
        cuts += sum(proxy.done[kind] for kind in ("lose request", "lose answer", "reorder"))
        upload_cuts += proxy.upload_cuts
        download_cuts += proxy.download_cuts
        parts += sum(proxy.parts.values())
        options.say(f"{cuts} cuts in {rounds} rounds, {len(failures)} broken")
    figures = {
        "cuts": cuts,
        "of these inside an upload": upload_cuts,
        "of these inside a download": download_cuts,
        "rounds": rounds,
        "parts sent": parts,
        **{f"requests: {kind}": n for kind, n in sorted(done.items())},
        **{f"repeated requests answered {status}": n for status, n in sorted(repeated.items())},
    }
    return Result(figures, [], failures)
