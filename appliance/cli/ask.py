"""``appliance ask``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.cli.answers import adapter_option, sampling_options, show, show_loading
from appliance.cli.question_file import read_questions, show_rows
from appliance.context import Context
from federation.errors import InputError
from federation.terminal import json_option

if TYPE_CHECKING:
    from backends.base import GenerateOptions


@click.command("ask")
@click.argument("question", required=False)
@click.option(
    "--file",
    "questions",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Answer every question of this JSONL file instead; answers are printed as JSON lines.",
)
@adapter_option
@sampling_options
@json_option
@click.pass_obj
def command(
    context: Context,
    question: str | None,
    questions: Path | None,
    adapter: str,
    options: GenerateOptions,
    as_json: bool,
) -> None:
    """Ask one QUESTION behind the guardrails; `-` reads it from standard input.

    Each line of a --file is an object with "question", and "id" or whatever else shall be repeated
    beside the answer; one answer does not know of the others.
    """
    from appliance.inference import Assistant

    if (question is None) == (questions is None):
        raise InputError("Give either a QUESTION or --file.", hint="appliance ask --help")
    rows = read_questions(questions) if questions else []
    if question == "-":
        question = sys.stdin.read()
    if question is not None and not question.strip():
        raise InputError("The question is empty.", hint='appliance ask "What is anaemia?"')
    assistant = Assistant(context, show_loading)
    if adapter != "base":
        assistant.use(adapter)
    if question is None:
        answers = assistant.answer_each([row["question"] for row in rows], options)
        show_rows(rows, answers)
        return
    show(assistant.answer([{"role": "user", "content": question}], options), as_json=as_json)
