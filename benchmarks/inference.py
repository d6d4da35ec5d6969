"""Answers with our torch engine beside plain ``transformers.generate`` with peft.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.inference MODEL_FOLDER

MODEL_FOLDER is an installed base model, such as ``demo-run/models/smollm2-135m-instruct`` after
``make demo``. Both answer the same conversation of five turns, greedily, with the same adapter, on
the same number of threads, in turns within one process; what is printed are medians over the
repeats. A cold start is a process of its own, from its beginning to its first token. On a processor
times are CPU seconds, since other programs would be measured too; on one thread that is what a
quiet machine's clock shows.

The plain way computes each prompt whole. Its adapter swap is ``load_adapter`` and ``set_adapter``
from the same folder that ours reads. mlx-lm has ``benchmarks/mlx_speed.py``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from backends.base import ChatMessage, GenerateOptions
from backends.cuda import BACKEND
from backends.cuda.device import best_device
from backends.lora_adapter import LoraAdapter
from backends.peft_folder import write_peft
from benchmarks.conversation import (
    QUESTIONS,
    Engine,
    Figures,
    Ours,
    Turn,
    answer_once,
    converse,
    make_adapters,
    medians,
    new_figures,
    show,
    start_cold,
    swap,
)

_BATCH_TOKENS = 16


def clock() -> float:
    """Seconds; of processor time, children included, where a processor computes."""
    if best_device().type != "cpu":
        return time.perf_counter()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


class Times:
    """A streamer of transformers' that notes when tokens come; the first call is the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        """A token has come."""
        self.times.append(clock())

    def end(self) -> None:
        """The answer has ended."""


class Plain:
    """transformers and peft, as their own documentation shows it."""

    def __init__(self, base: Path, threads: int) -> None:
        # Imported here: a cold start of ours has no need of them.
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        self._peft = PeftModel
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        self.base = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        self.model: Any = None
        self.n_loaded = 0

    def use(self, _: LoraAdapter, folder: Path) -> None:
        """See ``Engine.use``; the former adapter's memory is freed."""
        self.n_loaded += 1
        name = f"a{self.n_loaded}"
        if self.model is None:
            self.model = self._peft.from_pretrained(self.base, folder, adapter_name=name).eval()
        else:
            before = self.model.active_adapter
            self.model.load_adapter(folder, adapter_name=name)
            self.model.set_adapter(name)
            self.model.delete_adapter(before)

    def forget(self) -> None:
        """See ``Engine.forget``: it keeps nothing."""

    def turn(self, chat: list[ChatMessage], n_tokens: int) -> tuple[Turn, str]:
        """See ``Engine.turn``."""
        began = clock()
        prompt = self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ticks = Times()
        found = (self.model or self.base).generate(
            **prompt, max_new_tokens=n_tokens, do_sample=False, streamer=ticks
        )
        times = ticks.times[1:]
        ids = found[0, prompt["input_ids"].shape[1] :]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return (times[0] - began, times[-1] - times[0], len(times)), text


def ours(base: Path, threads: int) -> Ours:
    """The torch engine."""
    return Ours(BACKEND.load(base, threads=threads), clock)


ENGINES: dict[str, Callable[[Path, int], Engine]] = {"ours": ours, "plain": Plain}


def batches(engine: Ours, figures: Figures) -> int:
    """Eight answers one by one and together; counts those that differ."""
    chats: list[list[ChatMessage]] = [
        [{"role": "user", "content": f"{question} {extra}"}]
        for question in QUESTIONS[:4]
        for extra in ("", "Answer a student.")
    ]
    options = GenerateOptions(max_tokens=_BATCH_TOKENS)
    began = clock()
    alone = [list(engine.model.generate(chat, options)) for chat in chats]
    between = clock()
    together = engine.model.generate_batch(chats, options)
    ended = clock()
    for name, answers, seconds in (
        ("one by one", alone, between - began),
        ("together", together, ended - between),
    ):
        figures["tokens/s of eight answers"][name].append(sum(map(len, answers)) / seconds)
    texts = [
        ["".join(t.text for t in answer) for answer in answers] for answers in (alone, together)
    ]
    return sum(a != b for a, b in zip(*texts, strict=True))


def measure(
    base: Path, threads: int, repeats: int, n_tokens: int, *, quick: bool
) -> tuple[Figures, dict[str, str]]:
    """What was measured, and how many texts differ."""
    figures = new_figures()
    for _ in range(0 if quick else repeats):
        for name in ENGINES:
            child = ["-m", "benchmarks.inference", str(base), "--threads", str(threads)]
            figures["cold start, s"][name].append(start_cold([*child, "--first", name], clock))
    mine = ours(base, threads)
    engines: dict[str, Engine] = {"ours": mine, "plain": Plain(base, threads)}
    differ = together_differ = 0
    with tempfile.TemporaryDirectory() as room:
        adapters = make_adapters(base, Path(room), write_peft)
        for engine in engines.values():
            engine.use(*adapters[1])
        for _ in range(repeats):
            swap(engines, adapters, clock, figures)
            differ += converse(engines, n_tokens, figures, quick=quick)
            together_differ += 0 if quick else batches(mine, figures)
    if quick:
        return figures, {}
    return figures, {
        "turns_that_differ": f"{differ} of {repeats * len(QUESTIONS)}",
        "answers_that_differ_in_a_batch": f"{together_differ} of {repeats * 8}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument(
        "--quick", action="store_true", help="first tokens and swaps only; plain writes no more"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--first", choices=ENGINES, help="only load and write one token")
    given = parser.parse_args()
    if given.first:
        answer_once(ENGINES[given.first](given.model, given.threads))
        return
    figures, differ = measure(
        given.model, given.threads, given.repeats, given.tokens, quick=given.quick
    )
    if given.json:
        print(json.dumps({"medians": medians(figures), **differ}))
        return
    show(figures)
    for what, count in differ.items():
        print(f"{what.replace('_', ' ')}: {count}")


if __name__ == "__main__":
    main()
