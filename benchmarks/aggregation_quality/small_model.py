"""A model that trains in seconds: a small Llama, pre-trained here on medical definitions.

Its text are the definitions of the Human Phenotype Ontology outside the specialties of the
hospitals, so that what the hospitals teach it is new to it.
"""

from __future__ import annotations

import random
from pathlib import Path

from appliance.demo import hpo
from appliance.demo.obo import read_obo
from backends.base import Example
from federation.base_model import write_card
from tests.tiny import build_tiny_model

_STEPS, _BATCH, _LENGTH = 700, 16, 128


def small_model(cache: Path) -> Path:
    """The folder of the pre-trained model, made once; takes about two minutes."""
    folder = cache / "small-model"
    if not (folder / "done").exists():
        build_tiny_model(folder)
        _pretrain(folder)
        write_card(folder, "small-medical-llama")
        (folder / "done").touch()
    return folder


def _texts() -> list[tuple[str, str]]:
    _, terms = read_obo(hpo._ontology_file())
    taken = hpo._specialties(terms)
    return [
        (hpo.QUESTION.format(label=term.name), term.definition)
        for term_id, term in sorted(terms.items())
        if term_id not in taken and not term.obsolete and term.definition
    ]


def _pretrain(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from backends.cuda.forward import make_batch, token_losses
    from backends.tokens import ChatTokenizer

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = ChatTokenizer(folder)
    examples = [
        tokenizer.encode(
            [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            max_length=_LENGTH,
        )
        for question, answer in _texts()
    ]
    # Everything is learned, the question too.
    examples = [Example(example.tokens, 1) for example in examples]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=_STEPS)
    draw = random.Random(0)
    model.train()
    for step in range(_STEPS):
        batch = make_batch(draw.sample(examples, _BATCH), model.device)
        loss = token_losses(model, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(f"pre-training: step {step} of {_STEPS}, loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
