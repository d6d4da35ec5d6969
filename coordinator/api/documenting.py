"""What the OpenAPI document says beyond FastAPI's reading of the code: bodies, answers, refusals.

The calls read and answer bytes themselves, so that limits and signatures hold before anything is
parsed; here is said what those bytes are.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from federation.messages import Problem

Responses = dict[int | str, dict[str, Any]]

_PROBLEM = "application/problem+json"
_OCTETS = "application/octet-stream"
_SIGNATURE = {
    "Signature": "Ed25519 over the components that Signature-Input names (RFC 9421)",
    "Signature-Input": '("@method" "@path" "@query" "content-digest") with created, nonce, keyid, '
    'alg="ed25519" and tag="fedmed"',
    "Content-Digest": "sha-256 of the body, an empty one too (RFC 9530)",
}
_ANYWHERE = (408, 413, 415, 422, 429, 507)


def refused(*statuses: int) -> Responses:
    """Each status as a problem document."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {_PROBLEM: schema}}
        for status in statuses
    }


UNSIGNED = refused(401, *_ANYWHERE)
"""What a call refuses whose caller need not be a member."""

SIGNED = refused(401, 403, *_ANYWHERE)
"""What any call of a member may be refused with."""


def answered(model: type[BaseModel], what: str, *statuses: int) -> Responses:
    """A message with each of the statuses, 200 where none is given."""
    return {status: {"model": model, "description": what} for status in statuses or (200,)}


def octets(what: str, *statuses: int) -> Responses:
    """Bytes with each of the statuses."""
    content = {_OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    return {status: {"description": what, "content": content} for status in statuses}


def text(what: str) -> Responses:
    """A line of text with status 200."""
    return {200: {"description": what, "content": {"text/plain": {"schema": {"type": "string"}}}}}


def empty(status: int, what: str) -> Responses:
    """No body."""
    return {status: {"description": what}}


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The request's body is a message."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return _body("application/json", schema)


def takes_octets() -> dict[str, Any]:
    """The request's body is bytes."""
    return _body(_OCTETS, {"type": "string", "format": "binary"})


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def complete(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of ``app``, with what its calls share."""
    document = app.openapi()
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    components["securitySchemes"] = {
        name: {"type": "apiKey", "in": "header", "name": name, "description": what}
        for name, what in _SIGNATURE.items()
    }
    operations = [o for path in document["paths"].values() for o in path.values()]
    for operation in operations:
        for body in operation.get("requestBody", {}).get("content", {}).values():
            schemas |= body["schema"].pop("$defs", {})
        if "403" in operation["responses"]:
            operation["security"] = [{name: [] for name in _SIGNATURE}]
    return document
