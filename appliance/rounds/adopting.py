"""Whether a new global adapter is taken into use here: by this hospital's rule and own data.

    always      the global adapter, whatever it does here
    not-worse   the global adapter unless its held-out loss is above that of the present one by more
                than the tolerance
    best        the lowest loss of: the global one, the present one, and what this hospital itself
                trained in that round
    mixture     as best, and mixtures of the last with the global one, a quarter at a time

Of equals the one with more of the global adapter is taken. The lowest of several losses on the
same examples is a little too good to be true, and the more so the fewer examples there are: that
is why ``not-worse`` is the default.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance import adapters
from appliance.adapters import AdapterCard, StoredAdapter
from appliance.adopted import Adoption, Rule, keep_adoption, read_adoption
from appliance.context import Context
from appliance.events import Phase, Sink
from appliance.paths import Paths
from appliance.rounds.mixing import mixed_schema, write_mixture
from appliance.training import mean_loss
from backends.base import Example, LoadedModel
from federation.adapter import AdapterSchema
from federation.canonical import file_sha256
from federation.errors import InputError
from federation.files import storage_errors, sync_file

_PRESENT = "the present one"
_PARTS = (0.75, 0.5, 0.25)
"""How much of the global adapter a mixture may have, beside all and nothing."""


@dataclass(frozen=True)
class Candidate:
    """An adapter that may be adopted; ``stored`` None is the plain base.

    ``choice`` is its name afterwards, ``global_part`` how much of the global one is in it.
    """

    name: str
    choice: str
    stored: StoredAdapter | None
    loss: float
    global_part: float | None = None


def choose(rule: Rule, tolerance: float, candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """The candidate to adopt and why; the first is the global adapter, the second the present one.

    ``tolerance`` is in nats a token.
    """
    new, present = candidates[:2]
    if rule == "always":
        return new, f"the rule is to adopt always; its loss here is {new.loss:.3f}"
    if rule == "not-worse":
        compared = f"{new.loss:.3f} here against {present.loss:.3f} of {present.name}"
        if new.loss <= present.loss + tolerance:
            return new, f"not worse: {compared}"
        return present, f"the new one is worse: {compared}, more than {tolerance:g} above"
    # The order of the candidates breaks ties.
    best = min(candidates, key=lambda c: c.loss)
    others = ", ".join(f"{c.name} {c.loss:.3f}" for c in candidates if c is not best)
    return best, f"the lowest loss here, {best.loss:.3f}; {others}"


def adopt(
    context: Context,
    model: LoadedModel,
    held_out: Sequence[Example],
    number: int,
    new: StoredAdapter,
    loss: float,
    sink: Sink,
) -> Adoption:
    """Decide about the global adapter of round ``number``, whose held-out loss is ``loss``.

    What is used from now on is named last, when it is there whole. Raises StorageError, and what
    measuring raises.
    """
    section, paths = context.config.adopt, context.paths
    sink(Phase("evaluating", "whether to adopt it"))
    measure = _Measure(model, held_out, sink)
    candidates = [Candidate("the global adapter", f"round:{number}", new, loss, 1.0)]
    candidates.append(_present(paths, candidates[0], measure))
    own = _own(paths, number, new)
    if own is not None and section.rule in ("best", "mixture"):
        mixtures = _PARTS if section.rule == "mixture" else ()
        candidates += _personal(paths, own, new, measure, mixtures)
    chosen, reason = choose(section.rule, section.tolerance, candidates)
    stored = chosen.stored
    if own is not None and chosen.choice == "personal" and chosen is not candidates[1]:
        stored = _keep_personal(paths, chosen, own, new)
    adoption = Adoption(
        round=number,
        choice=chosen.choice,
        sha256=stored.card.sha256 if stored else None,
        rule=section.rule,
        reason=reason,
        losses={c.name: c.loss for c in candidates},
        n_held_out=len(held_out),
        global_part=chosen.global_part,
        at=time.time(),
    )
    keep_adoption(paths, adoption)
    return adoption


@dataclass(frozen=True)
class _Measure:
    """Held-out losses of adapters on the model that is loaded."""

    model: LoadedModel
    held_out: Sequence[Example]
    sink: Sink

    def __call__(self, weights: Path | None, schema: AdapterSchema | None) -> float:
        if weights is None or schema is None:
            self.model.detach()
        else:
            self.model.attach(weights, schema)
        return mean_loss(self.model.losses(self.held_out, self.sink))

    def stored(self, stored: StoredAdapter | None) -> float:
        if stored is None:
            return self(None, None)
        return self(stored.weights, stored.card.adapter_schema)


def _present(paths: Paths, new: Candidate, measure: _Measure) -> Candidate:
    """What is in use now: the plain base where nothing that fits this base was adopted before."""
    before = read_adoption(paths)
    choice, part = (before.choice, before.global_part) if before else ("base", None)
    try:
        stored = adapters.find(paths, choice)
    except InputError:
        choice, stored, part = "base", None, None
    assert new.stored is not None
    if stored is not None and stored.card.base_sha256 != new.stored.card.base_sha256:
        choice, stored, part = "base", None, None
    name = f"{_PRESENT} ({choice})"
    if stored is not None and stored.card.sha256 == new.stored.card.sha256:
        return Candidate(name, choice, stored, new.loss, part)
    return Candidate(name, choice, stored, measure.stored(stored), part)


def _own(paths: Paths, number: int, new: StoredAdapter) -> StoredAdapter | None:
    """What this hospital trained in the round, or else alone, in the layers of the global one."""
    for folder in (paths.round(number) / "adapter", paths.adapters / "local"):
        if not folder.is_dir():
            continue
        own = adapters.load(folder)
        same_layers = own.card.adapter_schema.modules == new.card.adapter_schema.modules
        if same_layers and own.card.base_sha256 == new.card.base_sha256:
            return own
    return None


def _personal(
    paths: Paths,
    own: StoredAdapter,
    new: StoredAdapter,
    measure: _Measure,
    parts: Sequence[float],
) -> Iterator[Candidate]:
    schema = mixed_schema(own.card.adapter_schema, new.card.adapter_schema)
    with storage_errors(paths.adapters), TemporaryDirectory(dir=paths.adapters) as folder:
        for part in parts:
            file = Path(folder) / "mixture.safetensors"
            write_mixture(file, own, new, part)
            loss = measure(file, schema)
            yield Candidate(f"a mixture with {part:.0%} of it", "personal", own, loss, part)
    yield Candidate(f"its own ({own.card.origin})", "personal", own, measure.stored(own), 0.0)


def _keep_personal(
    paths: Paths, chosen: Candidate, own: StoredAdapter, new: StoredAdapter
) -> StoredAdapter:
    """Store the mixture, or a copy of the own adapter: the next round trains over that."""
    folder = paths.adapters / "personal"
    part = chosen.global_part or 0.0
    if not part:

        def copy(target: Path) -> None:
            shutil.copyfile(own.weights, target)
            sync_file(target)

        return adapters.store(folder, own.card, copy)
    schema = mixed_schema(own.card.adapter_schema, new.card.adapter_schema)
    with storage_errors(paths.adapters), TemporaryDirectory(dir=paths.adapters) as temporary:
        file = Path(temporary) / "mixture.safetensors"
        write_mixture(file, own, new, part)
        card = AdapterCard(
            base_name=new.card.base_name,
            base_sha256=new.card.base_sha256,
            adapter_schema=schema,
            sha256=file_sha256(file),
            origin=f"{part:.0%} {new.card.origin}, the rest {own.card.origin}",
        )

        def move(target: Path) -> None:
            file.replace(target)

        return adapters.store(folder, card, move)
