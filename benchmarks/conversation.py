"""One conversation put to several engines in turns, and what its answers take.

Shared by ``inference.py`` (torch) and ``mlx_speed.py``; no engine is imported here, since a cold
start is measured too.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np

from backends.base import ChatMessage, GenerateOptions, LoadedModel
from backends.lora_adapter import LoraAdapter, Scaling
from backends.peft_config import WEIGHTS_NAME
from federation.adapter import initial_adapter
from federation.base_model import read_card

QUESTIONS = (
    "What is anaemia, and which kinds are there?",
    "How is the commonest of these kinds diagnosed?",
    "Which symptoms would a patient notice first?",
    "What does the treatment usually consist of?",
    "How long does it take until the blood count is normal again?",
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")

Clock = Callable[[], float]
Turn = tuple[float, float, int]
"""Seconds to the first token, seconds for the rest, number of tokens."""
Figures = dict[str, dict[str, list[float]]]
"""What was measured, by row and engine."""


class Engine(Protocol):
    """A loaded base model that answers."""

    def use(self, adapter: LoraAdapter, folder: Path) -> None:
        """Answer with the adapter in this folder from now on."""

    def forget(self) -> None:
        """Keep nothing of former conversations."""

    def turn(self, chat: list[ChatMessage], n_tokens: int) -> tuple[Turn, str]:
        """Answer the conversation's last question."""


class Ours:
    """Either of our engines, as the appliance uses it; adapters are read from PEFT folders."""

    def __init__(self, model: LoadedModel, clock: Clock) -> None:
        self.model = model
        self._clock = clock

    def use(self, adapter: LoraAdapter, folder: Path) -> None:
        """See ``Engine.use``."""
        self.model.attach(folder / WEIGHTS_NAME, adapter.schema)

    def forget(self) -> None:
        """See ``Engine.forget``."""
        self.model._conversations.forget()  # type: ignore[attr-defined]

    def turn(self, chat: list[ChatMessage], n_tokens: int) -> tuple[Turn, str]:
        """See ``Engine.turn``."""
        began = self._clock()
        text, first, n = "", 0.0, 0
        for token in self.model.generate(chat, GenerateOptions(max_tokens=n_tokens)):
            first = first or self._clock() - began
            text, n = text + token.text, n + 1
        return (first, self._clock() - began - first, n), text


def new_figures() -> Figures:
    return defaultdict(lambda: defaultdict(list))


def make_adapters(
    base: Path, folder: Path, write: Callable[[Path, LoraAdapter, str], None]
) -> list[tuple[LoraAdapter, Path]]:
    """Two adapters of rank 8 that change answers a little, each written into a folder."""
    schema = read_card(base).adapter_schema(TARGETS, rank=8, alpha=16.0)
    made = []
    for seed in (1, 2):
        stream = np.random.default_rng(seed)
        tensors = {
            name: tensor
            if tensor.any()
            else stream.normal(size=tensor.shape, scale=2e-3).astype(np.float32)
            for name, tensor in initial_adapter(schema, seed)
        }
        adapter = LoraAdapter(schema.modules, schema.rank, Scaling(schema.alpha), tensors)
        place = folder / str(seed)
        place.mkdir()
        write(place, adapter, base.name)
        made.append((adapter, place))
    return made


def converse(
    engines: Mapping[str, Engine], n_tokens: int, figures: Figures, *, quick: bool = False
) -> int:
    """Five turns, each asked of all; ours gives the history. Counts turns whose texts differ.

    If ``quick``, all but ours write the first token only.
    """
    chat: list[ChatMessage] = []
    differ = 0
    for engine in engines.values():
        engine.forget()
    for number, question in enumerate(QUESTIONS, 1):
        chat.append({"role": "user", "content": question})
        texts = {}
        for name, engine in engines.items():
            n_wanted = 1 if quick and name != "ours" else n_tokens
            (first, rest, n), texts[name] = engine.turn(chat, n_wanted)
            figures[f"first token of turn {number}, ms"][name].append(first * 1e3)
            if n > 1:
                figures["a further token, ms"][name].append(rest / (n - 1) * 1e3)
        differ += len(set(texts.values())) > 1
        chat.append({"role": "assistant", "content": texts["ours"]})
    return differ


def swap(
    engines: Mapping[str, Engine],
    adapters: list[tuple[LoraAdapter, Path]],
    clock: Clock,
    figures: Figures,
) -> None:
    """Both adapters, one after the other, into each engine."""
    for adapter, folder in adapters:
        for name, engine in engines.items():
            began = clock()
            engine.use(adapter, folder)
            figures["adapter swap, ms"][name].append((clock() - began) * 1e3)


def answer_once(engine: Engine) -> None:
    """One token: what a cold start ends with."""
    engine.turn([{"role": "user", "content": QUESTIONS[0]}], 1)


def start_cold(arguments: list[str], clock: Clock) -> float:
    """Seconds of a process with these arguments of Python's."""
    began = clock()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return clock() - began


def medians(figures: Figures) -> dict[str, dict[str, float]]:
    return {row: {name: median(v) for name, v in by.items()} for row, by in figures.items()}


def show(figures: Figures) -> None:
    """A line for each row and engine: median, least, most, and the ratio to the first engine's."""
    for row, by in figures.items():
        first = median(next(iter(by.values())))
        for place, (name, found) in enumerate(by.items()):
            middle = median(found)
            print(
                f"{'' if place else row:30} {name:15} {middle:10.2f}   "
                f"({min(found):.2f} to {max(found):.2f})   x {middle / first:.2f}"
            )
