"""Power cuts: a recorded round's writes replayed, unsynced ones lost, kept or torn."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.chaos.federation import Broken, Stages
from tests.chaos.powercut import Recording, Site, bites, examine_image, record, survives
from tests.chaos.rows import Options, Result

WHAT = "power cut: recorded-write replay, torn writes included; each fsync taken out once"

_FINISHED = 200
_EXAMINED = 3000
_AT_ONCE = 3

UNNEEDED = {
    "coordinator.sqlite's folder": "SQLite's own; a log that is not there holds nothing yet",
    "tensorboard": "curves for people, not read by any program",
    "..trained.safetensors' folder": "a temporary name; the adapter's own folder is synced after",
    "a checkpoint's content": "a damaged one is noticed by its digest; only time is lost",
    "a heartbeat": "nothing was promised of it",
    "a step of the round": "a later fsync of the same log comes before any answer or removal",
    "a signed checkpoint": "the log it is of is durable; another is signed",
    "the log, before it is emptied": "every commit in it was synced",
    "the database, before the round": "what the log held then is older than what is promised here",
}
"""Why nothing breaks without some of the fsyncs."""

_USE_SQLITE = (
    *("coordinator.store.", "coordinator.cli.serve:", "coordinator.closing:"),
    *("coordinator.context:", "coordinator.sweeping:"),
)
_LOG = "coordinator.sqlite-wal"
_BY_STEP = {
    "coordinator.store.reports:_replace": "a heartbeat",
    "coordinator.store.reviews:examined": "a step of the round",
    "coordinator.store.rounds:close": "a step of the round",
    "coordinator.store.rounds:aggregated": "a step of the round",
    "coordinator.store.rounds:published": "a step of the round",
    "coordinator.store.log:keep_checkpoint": "a signed checkpoint",
    "coordinator.closing:_forget": "the log, before it is emptied",
    "coordinator.sweeping:sweep": "the log, before it is emptied",
    "coordinator.context:open_coordinator": "the log, before it is emptied",
    "coordinator.cli.serve:command": "the log, before it is emptied",
}


def unneeded(site: Site) -> str | None:
    """The key of ``UNNEEDED`` that this fsync falls under."""
    side, step, target = site
    if (side, target) == ("coordinator", ".") and step.startswith(_USE_SQLITE):
        return "coordinator.sqlite's folder"
    if target == _LOG:
        return _BY_STEP.get(step)
    if (step, target) == ("coordinator.context:open_coordinator", "coordinator.sqlite"):
        return "the database, before the round"
    if "/tensorboard/" in target or step == "appliance.runlog:__init__":
        return "tensorboard"
    if step == "backends.adapters:write_adapter" and target == "rounds/0001":
        return "..trained.safetensors' folder"
    if step == "backends.checkpoints:write" and target.endswith(".safetensors*"):
        return "a checkpoint's content"
    return None


def run(options: Options) -> Result:
    """Cut the power at ``share(200)`` points and finish; examine many more; take out each fsync."""
    stages = Stages(options.folder)
    assert stages.undisturbed
    recording = record(stages, options.folder / "recording")
    stream = random.Random(options.seed)
    failures = _examined(recording, options, stream)
    options.say(f"{options.share(_EXAMINED)} images examined, {len(failures)} broken")
    failures += _finished(recording, stages, options, stream)
    options.say("rounds finished; now without each fsync")
    sites = recording.sites()
    sites = stream.sample(sites, options.share(len(sites)))
    lines: list[tuple[str, ...]] = []
    needed = 0
    for number, site in enumerate(sites):
        why = unneeded(site)
        found = bites(recording, site, options.folder / f"without-{number}") if not why else None
        needed += found is not None
        if not (found or why):
            failures.append(f"nothing breaks without the fsync {' '.join(site)}")
        seen = f"not needed: {UNNEEDED[why]}" if why else str(found).splitlines()[0]
        lines.append((*site, seen))
    figures = {
        "recorded changes": len(recording.changes),
        "images examined": options.share(_EXAMINED),
        "rounds finished by the programs": options.share(_FINISHED),
        "fsync sites taken out": len(sites),
        "of these something breaks": needed,
        "of these not needed": sum(unneeded(site) is not None for site in sites),
    }
    return Result(figures, [("side", "step", "fsync of", "without it"), *sorted(lines)], failures)


def _point(recording: Recording, stream: random.Random) -> tuple[int, str]:
    """A cut point, and whose power fails: mostly of the machine that is writing."""
    cut = stream.randint(1, len(recording.changes))
    owner = recording.changes[cut - 1].owner
    return cut, owner if stream.random() < 0.7 else stream.choice(("coordinator", "a", "b"))


def _examined(recording: Recording, options: Options, stream: random.Random) -> list[str]:
    failures = []
    disk = options.folder / "image"
    for _ in range(options.share(_EXAMINED)):
        cut, owner = _point(recording, stream)
        seed = stream.randrange(1 << 30)
        recording.image(cut, owner, seed, disk, None)
        try:
            examine_image(recording, cut, owner, disk)
        except Broken as error:
            failures.append(f"{owner}, cut {cut}, seed {seed}: {error}")
        shutil.rmtree(disk)
    return failures


def _finished(
    recording: Recording, stages: Stages, options: Options, stream: random.Random
) -> list[str]:
    def attempt(point: tuple[int, tuple[int, str]]) -> str:
        number, (cut, owner) = point
        folder: Path = options.folder / f"cut-{number}"
        try:
            survives(recording, stages, cut, owner, folder)
        except Broken as error:
            options.say(f"BROKEN {owner}, cut {cut}, finished: {error}")
            return f"{owner}, cut {cut}, finished: {error}"
        if number % 25 == 24:
            options.say(f"{number + 1} rounds finished")
        return ""

    points = [_point(recording, stream) for _ in range(options.share(_FINISHED))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [failure for failure in pool.map(attempt, enumerate(points)) if failure]
