"""One command-line option for each field of the training recipe, made from the field itself."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import click
from pydantic import ValidationError

from appliance.config import first_problem
from federation.errors import InputError
from federation.recipe import TrainingRecipe

_F = Callable[..., Any]

_ALSO = {"learning_rate": ("--lr",)}


def _click_type(annotation: object) -> click.ParamType[Any]:
    kinds = [a for a in (typing.get_args(annotation) or (annotation,)) if a is not type(None)]
    if all(isinstance(kind, str) for kind in kinds):
        return click.Choice([str(kind) for kind in kinds])
    return click.INT if kinds[0] is int else click.FLOAT


def recipe_options(function: _F) -> _F:
    """Add the options; the command gets those given as keyword arguments, others as None."""
    for name, field in reversed(TrainingRecipe.model_fields.items()):
        default = f" [{field.default}]" if field.default is not None else ""
        function = click.option(
            *_ALSO.get(name, ()),
            f"--{name.replace('_', '-')}",
            name,
            type=_click_type(field.annotation),
            help=f"{field.description}{default}",
        )(function)
    return function


def recipe_from(options: dict[str, Any]) -> TrainingRecipe:
    """The recipe with the options that were given. Raises InputError naming the field."""
    given = {name: value for name, value in options.items() if value is not None}
    if "epochs" in given and "steps" not in given:
        given["steps"] = None
    try:
        return TrainingRecipe(**given)
    except ValidationError as error:
        raise InputError(f"The recipe is not valid: {first_problem(error)}.") from error
