"""Answers with our torch engine beside plain ``transformers.generate`` with peft.

    OMP_NUM_THREADS=1 PYTHONPATH=. .venv/bin/python benchmarks/inference.py MODEL_FOLDER

MODEL_FOLDER is an installed base model, such as ``demo-run/models/smollm2-135m-instruct`` after
``make demo``. Both answer the same conversation of five turns, greedily, with the same adapter, on
the same number of threads, in turns within one process; what is printed are medians over the
repeats. A cold start is a process of its own, from its beginning to its first token. On a processor
times are CPU seconds, since other programs would be measured too; on one thread that is what a
quiet machine's clock shows.

The plain way computes each prompt whole. Its adapter swap is ``load_adapter`` and ``set_adapter``
from the same folder that ours reads. mlx-lm is measured where Metal is: its Linux CPU build has no
fast matrix product, and would be no comparison.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

from backends.base import ChatMessage, GenerateOptions
from backends.cuda import BACKEND
from backends.cuda.device import best_device
from backends.lora_adapter import LoraAdapter, Scaling
from backends.peft_config import WEIGHTS_NAME
from backends.peft_folder import write_peft
from federation.adapter import initial_adapter
from federation.base_model import read_card

QUESTIONS = (
    "What is anaemia, and which kinds are there?",
    "How is the commonest of these kinds diagnosed?",
    "Which symptoms would a patient notice first?",
    "What does the treatment usually consist of?",
    "How long does it take until the blood count is normal again?",
)
_BATCH_TOKENS = 16
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")

CLOCK = time.process_time if best_device().type == "cpu" else time.perf_counter

Figures = dict[str, dict[str, list[float]]]
Turn = tuple[float, float, int]
"""Seconds to the first token, seconds for the rest, number of tokens."""


class Ours:
    """The torch engine, as the appliance uses it."""

    def __init__(self, base: Path, threads: int) -> None:
        self.model = BACKEND.load(base, threads=threads)

    def use(self, adapter: LoraAdapter, folder: Path) -> None:
        """Answer with the adapter in this folder from now on."""
        self.model.attach(folder / WEIGHTS_NAME, adapter.schema)

    def turn(self, chat: list[ChatMessage], n_tokens: int) -> tuple[Turn, str]:
        """Answer the conversation's last question."""
        began = CLOCK()
        text, first, n = "", 0.0, 0
        for token in self.model.generate(chat, GenerateOptions(max_tokens=n_tokens)):
            first = first or CLOCK() - began
            text, n = text + token.text, n + 1
        return (first, CLOCK() - began - first, n), text


class Clock(BaseStreamer):
    """Notes when tokens come; the first call is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """A token has come."""
        self.times.append(CLOCK())

    def end(self) -> None:
        """The answer has ended."""


class Plain:
    """transformers and peft, as their own documentation shows it."""

    def __init__(self, base: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        self.model: Any = None
        self.n_loaded = 0

    def use(self, _: LoraAdapter, folder: Path) -> None:
        """As ``Ours.use``; the former adapter's memory is freed."""
        self.n_loaded += 1
        name = f"a{self.n_loaded}"
        if self.model is None:
            self.model = PeftModel.from_pretrained(self.base, folder, adapter_name=name).eval()
        else:
            before = self.model.active_adapter
            self.model.load_adapter(folder, adapter_name=name)
            self.model.set_adapter(name)
            self.model.delete_adapter(before)

    def turn(self, chat: list[ChatMessage], n_tokens: int) -> tuple[Turn, str]:
        """As ``Ours.turn``."""
        began = CLOCK()
        prompt = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        clock = Clock()
        found = (self.model or self.base).generate(
            **prompt, max_new_tokens=n_tokens, do_sample=False, streamer=clock
        )
        times = clock.times[1:]
        ids = found[0, prompt["input_ids"].shape[1] :]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return (times[0] - began, times[-1] - times[0], len(times)), text


ENGINES: dict[str, Callable[[Path, int], Ours | Plain]] = {"ours": Ours, "plain": Plain}


def cold_start(name: str, base: Path, threads: int) -> float:
    """Seconds of a process that loads the model and answers with one token."""
    command = [sys.executable, __file__, str(base), "--threads", str(threads), "--first", name]
    before = CLOCK(), _children_seconds()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if CLOCK is time.process_time:
        return _children_seconds() - before[1]
    return CLOCK() - before[0]


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_adapters(base: Path, folder: Path) -> list[tuple[LoraAdapter, Path]]:
    """Two adapters of rank 8 that change answers a little, as PEFT folders."""
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
        write_peft(place, adapter, base.name)
        made.append((adapter, place))
    return made


def conversation(engines: dict[str, Ours | Plain], n_tokens: int, figures: Figures) -> int:
    """Five turns, each asked of both; ours gives the history. Counts turns that differ."""
    chat: list[ChatMessage] = []
    differ = 0
    for number, question in enumerate(QUESTIONS, 1):
        chat.append({"role": "user", "content": question})
        texts = {}
        for name, engine in engines.items():
            (first, rest, n), texts[name] = engine.turn(chat, n_tokens)
            figures[f"first token of turn {number}, ms"][name].append(first * 1e3)
            if n > 1:
                figures["a further token, ms"][name].append(rest / (n - 1) * 1e3)
        differ += texts["ours"] != texts["plain"]
        chat.append({"role": "assistant", "content": texts["ours"]})
    return differ


def swaps(
    engines: dict[str, Ours | Plain], adapters: list[tuple[LoraAdapter, Path]], figures: Figures
) -> None:
    for adapter, folder in adapters:
        for name, engine in engines.items():
            began = CLOCK()
            engine.use(adapter, folder)
            figures["adapter swap, ms"][name].append((CLOCK() - began) * 1e3)


def batches(engine: Ours, figures: Figures) -> int:
    """Eight answers one by one and together; counts those that differ."""
    chats: list[list[ChatMessage]] = [
        [{"role": "user", "content": f"{question} {extra}"}]
        for question in QUESTIONS[:4]
        for extra in ("", "Answer a student.")
    ]
    options = GenerateOptions(max_tokens=_BATCH_TOKENS)
    began = CLOCK()
    alone = [list(engine.model.generate(chat, options)) for chat in chats]
    between = CLOCK()
    together = engine.model.generate_batch(chats, options)
    ended = CLOCK()
    for name, answers, seconds in (
        ("one by one", alone, between - began),
        ("together", together, ended - between),
    ):
        figures["tokens/s of eight answers"][name].append(sum(map(len, answers)) / seconds)
    texts = [
        ["".join(t.text for t in answer) for answer in answers] for answers in (alone, together)
    ]
    return sum(a != b for a, b in zip(*texts, strict=True))


def measure(base: Path, threads: int, repeats: int, n_tokens: int) -> dict[str, Any]:
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for _ in range(repeats):
        for name in ENGINES:
            figures["cold start, s"][name].append(cold_start(name, base, threads))
    engines = {name: make(base, threads) for name, make in ENGINES.items()}
    differ = together_differ = 0
    with tempfile.TemporaryDirectory() as room:
        adapters = make_adapters(base, Path(room))
        for engine in engines.values():
            engine.use(*adapters[1])
        for _ in range(repeats):
            swaps(engines, adapters, figures)
            ours = engines["ours"]
            assert isinstance(ours, Ours)
            ours.model._conversations.forget()  # type: ignore[attr-defined]
            differ += conversation(engines, n_tokens, figures)
            together_differ += batches(ours, figures)
    medians = {row: {name: median(v) for name, v in by.items()} for row, by in figures.items()}
    return {
        "medians": medians,
        "turns_that_differ": f"{differ} of {repeats * len(QUESTIONS)}",
        "answers_that_differ_in_a_batch": f"{together_differ} of {repeats * 8}",
    }


def show(result: dict[str, Any]) -> None:
    for row, by in result["medians"].items():
        (first, a), (second, b) = by.items()
        print(f"{row:28} {first} {a:10.2f}   {second} {b:10.2f}   ratio {b / a:6.2f}")
    print("turns whose texts differ:", result["turns_that_differ"])
    print("answers that differ in a batch:", result["answers_that_differ_in_a_batch"])


def metal_reason() -> str:
    try:
        import mlx.core as mx
    except ImportError:
        return "mlx is not installed"
    return "" if mx.metal.is_available() else "mlx finds no Metal device here"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--first", choices=ENGINES, help="only load and write one token")
    given = parser.parse_args()
    if given.first:
        chat: list[ChatMessage] = [{"role": "user", "content": QUESTIONS[0]}]
        ENGINES[given.first](given.model, given.threads).turn(chat, 1)
        return
    result = measure(given.model, given.threads, given.repeats, given.tokens)
    if given.json:
        print(json.dumps(result))
    else:
        show(result)
    if reason := metal_reason():
        print(f"mlx-lm is not measured: {reason}.", file=sys.stderr)


if __name__ == "__main__":
    main()
