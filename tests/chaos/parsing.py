"""What reads bytes of others: valid inputs, their mutations, and what may come of these."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from cryptography.cobblestone import Cobblestone256Encryptor

import appliance.config
import coordinator.config
from appliance.enrolment import read_invite
from coordinator.api.calls import parse
from federation import envelope, merkle
from federation.errors import FedMedError
from federation.log import ConsistencyProof, InclusionProof
from federation.membership import Invite
from federation.messages import UploadRequest
from federation.round_keys import HPKE, private_key, public_key, public_text
from federation.signing import Identity
from federation.succession import SignedSuccession, Succession, SuccessionChain
from federation.tensors import read_header, read_tensors
from tests.unit.federation.test_envelope import HOSPITAL, PARENT, SCHEMA, SEED, sealed

_FOLDER = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
_LARGEST = 1 << 16
_EXTREMES = (
    0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, 1e308, -0.0, True, None, "", "0", "\0", [], {},
    "é" * 70, "a" * 9000, [[]], {"a": {}},
)  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """``accept`` returns what it made of an input, or raises a FedMedError.

    ``valid`` is an input that it accepts; ``same`` says whether an accepted input means no more
    than the parser understood. ``files`` are the modules whose coverage is measured.
    """

    valid: bytes
    accept: Callable[[bytes], object]
    same: Callable[[bytes, object], bool]
    files: tuple[str, ...]


def _json(data: bytes) -> object:
    return json.loads(data)


_REQUEST, _BODY = sealed(_FOLDER)
_WHOLE = _BODY.read_bytes()


def _manifest(data: bytes) -> object:
    request = parse(UploadRequest, data)
    envelope.parse_manifest(request)
    envelope.verify_signatures(request, HOSPITAL.public())
    return request


def _body(data: bytes) -> object:
    path = _FOLDER / "body"
    path.write_bytes(data)
    return list(envelope.open_update(_REQUEST, path, private_key(SEED), SCHEMA, PARENT).tensors)


_CONTEXT = b"fedmed/adapter/v1\0" + hashlib.sha256(_REQUEST.manifest.encode()).digest()
_KEY = Cobblestone256Encryptor.generate_key()
_WRAPPED = HPKE.encrypt(_KEY, public_key(public_text(SEED)), info=_CONTEXT)


def _payload(data: bytes) -> object:
    """A payload that a lying member sealed properly."""
    encryptor = Cobblestone256Encryptor(_KEY, _CONTEXT)
    body = encryptor.update(data) + encryptor.finalize()
    path = _FOLDER / "payload"
    path.write_bytes(body)
    request = _REQUEST.model_copy(
        update={
            "wrapped_key": base64.b64encode(_WRAPPED).decode(),
            "body_sha256": hashlib.sha256(body).hexdigest(),
        }
    )
    opened = envelope.open_update(request, path, private_key(SEED), SCHEMA, PARENT, max_norm=1e6)
    tensors = dict(opened.tensors)
    assert {n: t.shape for n, t in tensors.items()} == SCHEMA.shapes(
        opened.header.factors, opened.header.rank
    )
    assert all(np.isfinite(t).all() and t.dtype == np.float32 for t in tensors.values())
    return tensors


def _valid_payload() -> bytes:
    decryptor = envelope.Cobblestone256Decryptor(_data_key(), _CONTEXT)
    return b"".join(envelope._decrypted(_BODY, decryptor))


def _data_key() -> bytes:
    return HPKE.decrypt(base64.b64decode(_REQUEST.wrapped_key), private_key(SEED), info=_CONTEXT)


def _same_payload(data: bytes, accepted: object) -> bool:
    start = 4 + int.from_bytes(data[:4], "big")
    return _same_tensors(data[start:], accepted)


def _tensors(data: bytes) -> object:
    source = io.BytesIO(data)
    return dict(read_tensors(source, read_header(source)))


def _same_tensors(data: bytes, accepted: object) -> bool:
    """The safetensors library reads the same from it."""
    assert isinstance(accepted, dict)
    if any(t.dtype not in (np.float32, np.float16) for t in accepted.values()):
        return True
    theirs = safetensors.numpy.load(data)
    return theirs.keys() == accepted.keys() and all(
        theirs[n].tobytes() == accepted[n].tobytes() and theirs[n].shape == accepted[n].shape
        for n in theirs
    )


def _file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    path = _FOLDER / name

    def accept(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return accept


def _understood(data: bytes, accepted: object) -> bool:
    """Every key and value of the input is in what was made of it, unchanged."""
    dumped = accepted.model_dump(mode="json")  # type: ignore[attr-defined]
    given = _json(data)
    return isinstance(given, dict) and all(dumped[key] == value for key, value in given.items())


_LEAVES = [hashlib.sha256(bytes([i])).digest() for i in range(13)]
_TREE = merkle.Tree()
_NODES = {
    (level, position): value for leaf in _LEAVES for level, position, value in _TREE.append(leaf)
}


def _read(level: int, position: int) -> bytes:
    return _NODES[level, position]


def _inclusion(data: bytes) -> object:
    proof = parse(InclusionProof, data)
    path = [bytes.fromhex(h) for h in proof.path]
    # Index and size are known to who asks: the log's signed checkpoint has the size.
    if not merkle.verify_inclusion(_LEAVES[5], 5, 13, path, _TREE.root()):
        raise FedMedError("The proof does not hold.")
    return proof.path


def _consistency(data: bytes) -> object:
    proof = parse(ConsistencyProof, data)
    path = [bytes.fromhex(h) for h in proof.path]
    if not merkle.verify_consistency(6, 13, merkle.root(6, _read), _TREE.root(), path):
        raise FedMedError("The proof does not hold.")
    return proof.path


def _chain(data: bytes) -> object:
    """The keys that a hospital believes which pinned the first."""
    return parse(SuccessionChain, data).since(_KEYS[0]).keys("f", HOSPITAL.public(), _KEYS[0])


def _beginning(data: bytes, accepted: object) -> bool:
    """Links may be withheld; which keys come next is not to be changed."""
    assert isinstance(accepted, tuple)
    return accepted == _KEYS[: len(accepted)]


def _is(valid: object) -> Callable[[bytes, object], bool]:
    return lambda data, accepted: accepted == valid


_INVITE = Invite(
    federation="f", hospital="h1", url="https://c.example:8443", coordinator=HOSPITAL.public(),
    admin=HOSPITAL.public(), ca_certificate="-----BEGIN", token="A" * 43, expires=1_800_000_000,
)  # fmt: skip
_SIGNERS = [Identity.generate() for _ in range(3)]
_KEYS = tuple(signer.public() for signer in _SIGNERS)
_CHAIN = SuccessionChain(
    links=tuple(
        SignedSuccession.make(
            Succession(federation="f", number=n, former=_KEYS[n - 1], new=_KEYS[n], at=n),
            HOSPITAL,
            _SIGNERS[n - 1],
        )
        for n in (1, 2)
    )
)
_COORDINATOR_TOML = b"""[federation]
name = "demo"
[server]
host = "127.0.0.1"
port = 8443
[limits]
connections = 256
requests_per_second = 20.0
[round]
rank = 8
alpha = 16.0
quorum = 2
target_modules = ["q_proj", "v_proj"]
steps = 12
"""
_APPLIANCE_TOML = b"""[engine]
threads = 2
[serve]
host = "127.0.0.1"
port = 8080
waiting = 4
host_names = ["a.example"]
"""
_INCLUSION = InclusionProof(
    index=5, size=13, path=tuple(h.hex() for h in merkle.inclusion_proof(5, 13, _read))
)
_CONSISTENCY = ConsistencyProof(
    first=6, second=13, path=tuple(h.hex() for h in merkle.consistency_proof(6, 13, _read))
)
_TENSORS = _valid_payload()[4 + int.from_bytes(_valid_payload()[:4], "big") :]


def _always(data: bytes, accepted: object) -> bool:
    # Any well-formed configuration is one: what is asked is that nothing else comes out.
    return accepted is not None


PARSERS = {
    "manifest": Parser(
        _REQUEST.to_json(), _manifest, _is(_REQUEST),
        ("federation/envelope.py", "federation/messages.py", "federation/signing.py"),
    ),
    "envelope body": Parser(
        _WHOLE, _body, lambda data, _: data == _WHOLE, ("federation/envelope.py",)
    ),
    "sealed payload": Parser(
        _valid_payload(), _payload, _same_payload,
        ("federation/envelope.py", "federation/tensors.py", "federation/adapter.py"),
    ),
    "safetensors": Parser(_TENSORS, _tensors, _same_tensors, ("federation/tensors.py",)),
    "invite": Parser(
        _INVITE.to_json(), _file(read_invite, "invite"), _understood, ("appliance/enrolment.py",)
    ),
    "succession chain": Parser(
        _CHAIN.to_json(), _chain, _beginning, ("federation/succession.py", "federation/signing.py")
    ),
    "coordinator.toml": Parser(
        _COORDINATOR_TOML, _file(lambda p: coordinator.config.load_config(p, {}), "c"), _always,
        ("coordinator/config.py",),
    ),
    "appliance.toml": Parser(
        _APPLIANCE_TOML, _file(lambda p: appliance.config.load_config(p, {}), "a"), _always,
        ("appliance/config.py",),
    ),
    "inclusion proof": Parser(
        _INCLUSION.to_json(), _inclusion, _is(_INCLUSION.path), ("federation/merkle.py",)
    ),
    "consistency proof": Parser(
        _CONSISTENCY.to_json(), _consistency, _is(_CONSISTENCY.path), ("federation/merkle.py",)
    ),
}  # fmt: skip


def examine(parser: Parser, data: bytes) -> bool:
    """Whether it was accepted. AssertionError: it should not have been; others: it crashed."""
    try:
        accepted = parser.accept(data)
    except FedMedError:
        return False
    assert parser.same(data, accepted), f"accepted as {accepted!r:.300}: {data!r:.600}"
    return True


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One or a few structural or bytewise changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        data = chance.choice((_bits, _splice, _cut, _tree, _tree, _tree, _deep, _length))(
            data, chance
        )
    return data[:_LARGEST]


def _bits(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return b"\0"
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]


def _splice(data: bytes, chance: random.Random) -> bytes:
    a, b, c = sorted(chance.randrange(len(data) + 1) for _ in range(3))
    return data[:b] + data[a:c] + data[chance.choice((b, c)) :]


def _cut(data: bytes, chance: random.Random) -> bytes:
    a, b = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return chance.choice((data[:a], data[a:], data[:a] + data[b:]))


def _deep(data: bytes, chance: random.Random) -> bytes:
    at, depth = chance.randrange(len(data) + 1), chance.choice((3, 200, 5000))
    return data[:at] + chance.choice((b"[", b'{"a":', b"(")) * depth + data[at:]


def _length(data: bytes, chance: random.Random) -> bytes:
    """A length or a number that is far too large, in binary or in text."""
    if chance.random() < 0.5:
        n = chance.choice((4, 8))
        return chance.choice((bytes(n), b"\xff" * n, chance.randbytes(n))) + data[n:]
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not digits:
        return data
    at = chance.choice(digits)
    return data[:at] + chance.choice((b"-", b"9" * 25, b"1e999", b"0x", b"nan", b".")) + data[at:]


def _tree(data: bytes, chance: random.Random) -> bytes:
    """Change a value of the JSON that the input is or holds."""
    start = data.find(b"{")
    try:
        value, end = json.JSONDecoder().raw_decode(data[max(start, 0) :].decode("latin-1"))
    except (ValueError, RecursionError):
        return _bits(data, chance)
    if not isinstance(value, dict) or not value:
        return _bits(data, chance)
    _change(value, chance)
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    head = data[:start]
    if start in (4, 8) and chance.random() < 0.9:
        head = len(text).to_bytes(start, "big" if start == 4 else "little")
    return head + text + data[start + end :]


def _change(value: dict[str, object], chance: random.Random) -> None:
    name = chance.choice(list(value))
    inner = value[name]
    if isinstance(inner, dict) and inner and chance.random() < 0.7:
        _change(inner, chance)
    elif isinstance(inner, list) and inner and chance.random() < 0.7:
        at = chance.randrange(len(inner))
        inner[at] = chance.choice((*_EXTREMES, inner[0], inner[-1]))
    else:
        match chance.randrange(4):
            case 0:
                del value[name]
            case 1:
                value[name + "_"] = inner
            case 2:
                value[name] = value[chance.choice(list(value))]
            case _:
                value[name] = chance.choice(_EXTREMES)
