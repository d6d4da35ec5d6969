"""What this machine can do, what was chosen and why, and what is wrong with the set-up."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from appliance import adapters, models
from appliance.context import Context
from appliance.data import load_split
from appliance.data.splits import SPLITS
from appliance.engine import AS_CONFIGURED, choose_engine, plan_training
from appliance.enrolment import load_enrolment, passphrase
from appliance.policy import load_policy
from appliance.session import open_session
from backends import probes
from federation.base_model import read_card
from federation.errors import DataError, FedMedError
from federation.signing import Identity

Verdict = Literal["ok", "warning", "problem"]

_LEAST_FREE_BYTES = 5 << 30

_LONGEST_LOOKED_AT = 64
"""Examples, the longest, that decide how much memory a training takes."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``remedy`` is empty where nothing has to be done."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def examine(context: Context) -> Iterator[Check]:
    """Look at engines, configuration, keys, coordinator, data, models and disk, in this order."""
    yield Check("python", "ok", f"{sys.version.split()[0]} on {sys.platform}")
    for probe in probes():
        detail = f"{probe.engine} {probe.version} on {probe.device}".strip()
        yield Check(
            f"engine {probe.backend}",
            "ok" if probe.available else "warning",
            f"{detail}: {probe.reason}" if probe.available else probe.reason,
        )
    yield from _attempt("configuration", lambda: _configuration(context))
    yield from _attempt("engine chosen", lambda: _engine(context))
    yield from _attempt("policy", lambda: _policy(context))
    yield from _attempt("enrolment", lambda: _enrolment(context))
    yield from _attempt("coordinator", lambda: _coordinator(context))
    yield from _attempt("base models", lambda: _models(context))
    yield from _attempt("training data", lambda: _data(context))
    yield from _attempt("training memory", lambda: _memory(context))
    yield _disk(context.paths.home)
    yield _encryption(context.paths.home)
    fetched = adapters.global_rounds(context.paths)
    yield Check("global adapters", "ok", f"{len(fetched)} here")


def _attempt(name: str, look: Callable[[], str]) -> Iterator[Check]:
    try:
        yield Check(name, "ok", look())
    except FedMedError as error:
        yield Check(name, "problem", str(error), error.hint)


def _configuration(context: Context) -> str:
    _ = context.config
    exists = context.paths.config.exists()
    return str(context.paths.config) if exists else "all defaults"


def _engine(context: Context) -> str:
    backend, reason = choose_engine(context.config.engine)
    return f"{backend.name}: {reason}"


def _policy(context: Context) -> str:
    load_policy(context.paths.policy)
    exists = context.paths.policy.exists()
    return str(context.paths.policy) if exists else "the default policy"


def _enrolment(context: Context) -> str:
    enrolment = load_enrolment(context.paths)
    Identity.load(context.paths.keys, passphrase())
    return f"{enrolment.hospital} in {enrolment.federation}"


def _coordinator(context: Context) -> str:
    with open_session(context) as session:
        current = session.client.current()
        return f"{session.enrolment.url} answers; round {current.round} is {current.state}"


def _models(context: Context) -> str:
    found = models.installed(context.paths.models)
    return f"{len(found)} in {context.paths.models}"


def _data(context: Context) -> str:
    train, held_out = (len(load_split(context.paths.data, split)) for split in SPLITS)
    return f"{train} training and {held_out} held-out examples"


def _memory(context: Context) -> str:
    """What training with the default settings would take on the longest examples here."""
    # Heavy, and a doctor should be quick to help where there is no model yet.
    from appliance.local import LocalSettings
    from backends.tokens import ChatTokenizer

    settings = LocalSettings()
    base = models.find(context.paths.models, name=context.config.model.name)
    schema = read_card(base).adapter_schema(
        settings.target_modules, rank=settings.rank, alpha=settings.alpha
    )
    conversations = load_split(context.paths.data, "train")
    longest = sorted(conversations, key=lambda turns: -sum(len(t["content"]) for t in turns))
    tokenizer = ChatTokenizer(base)
    examples = []
    for messages in longest[:_LONGEST_LOOKED_AT]:
        with suppress(DataError):
            examples.append(tokenizer.encode(messages, max_length=settings.recipe.max_length))
    if not examples:
        raise DataError("There is no training example to reckon with.")
    plan = plan_training(
        base, schema, "AB", settings.recipe, examples, context.config.engine, AS_CONFIGURED
    )
    return f"{base.name} at rank {settings.rank}: {plan.needed} of {plan.free / 1e9:.1f} GB free"


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _disk(home: Path) -> Check:
    free = shutil.disk_usage(_existing(home)).free
    detail = f"{free / 1e9:.0f} GB free at {home}"
    if free < _LEAST_FREE_BYTES:
        return Check("disk", "warning", detail, "Free some space: a base model may need it.")
    return Check("disk", "ok", detail)


def _encryption(home: Path, sysfs: Path = Path("/sys")) -> Check:
    """Linux: whether the home's file system lies on dm-crypt, also below LVM or RAID."""
    remedy = "Turn on full-disk encryption (LUKS, FileVault): data and keys rely on it."
    if not sys.platform.startswith("linux"):
        return Check("disk encryption", "warning", "not checked on this system", remedy)
    device = _existing(home).stat().st_dev
    if encrypted(sysfs / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"):
        return Check("disk encryption", "ok", "the disk of the home folder is encrypted")
    return Check("disk encryption", "warning", "no encryption found below the home folder", remedy)


def encrypted(device: Path) -> bool:
    """Whether a block device, a folder of sysfs, is dm-crypt or lies wholly on such devices."""
    uuid = device / "dm" / "uuid"
    if uuid.is_file() and uuid.read_text().startswith("CRYPT-"):
        return True
    below = list((device / "slaves").glob("*"))
    return bool(below) and all(encrypted(one) for one in below)
