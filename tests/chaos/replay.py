"""A disk that loses power: what a recorded run wrote, with everything unsynced at stake.

The model is harsher than common file systems. Data of a file are certain only after its own
fsync, an entry of a folder only after the folder's. What is not certain is lost, kept or torn: of
each file nothing, all, or any of its writes, cut at a sector; of each folder a first part of its
changes. A file whose size is certain to nobody may come back with zeros.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.chaos.interposer import Op

SECTOR = 512
_RECORD = struct.Struct("<QIIQQII")
_MAPPED = "-shm"
"""SQLite's index of its write-ahead log, in shared memory: nothing of it outlives its users."""
_TEMPORARY = re.compile(r"\.[a-z0-9_]{8}$|(?<=\.new-).*$|(?<=\.adapter-)[^/]*|[0-9a-f]{16,}")


@dataclass(frozen=True)
class Change:
    """One recorded call; paths are relative to the watched folder, ``owner`` is the home."""

    nanoseconds: int
    op: Op
    step: str
    path: PurePosixPath
    other: PurePosixPath
    offset: int
    data: bytes

    @property
    def owner(self) -> str:
        """Whose disk it is."""
        return self.path.parts[0]


def read_record(folder: Path, root: Path) -> list[Change]:
    """All programs' changes below ``root`` in the order in which they happened."""
    changes: list[Change] = []
    for log in folder.glob("*.log"):
        steps = log.with_suffix(".sites").read_text().splitlines()
        data, at = log.read_bytes(), 0
        while at < len(data):
            when, op, site, offset, length, n_path, n_other = _RECORD.unpack_from(data, at)
            at += _RECORD.size
            path, other = data[at : at + n_path], data[at + n_path : at + n_path + n_other]
            at += n_path + n_other
            written = b""
            if op == Op.WRITE:
                written = data[at : at + length]
                at += length
            if op != Op.SEND:
                changes.append(
                    Change(
                        when,
                        Op(op),
                        steps[site],
                        _relative(path, root),
                        _relative(other, root),
                        offset,
                        written,
                    )
                )
    return sorted(changes, key=lambda change: change.nanoseconds)


def _relative(path: bytes, root: Path) -> PurePosixPath:
    text = path.decode().removesuffix(" (deleted)")
    return PurePosixPath(text).relative_to(root) if text else PurePosixPath()


@dataclass(eq=False)
class File:
    """Certain bytes, and the writes since: (offset, data), or (length, None) for a truncation."""

    certain: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def live(self) -> bytes:
        """What a reader sees while the power is on."""
        return _applied(self.certain, self.pending)

    def sync(self) -> None:
        """Everything becomes certain."""
        self.certain, self.pending = self.live(), []

    def after_cut(self, stream: random.Random) -> bytes:
        """What may be found after a power cut."""
        match stream.choice(("nothing", "everything", "some", "zeros")):
            case "nothing":
                return self.certain
            case "everything":
                return self.live()
            case "zeros":
                return self.certain.ljust(len(self.live()), b"\0")
        kept = [_torn(change, stream) for change in self.pending if stream.random() < 0.5]
        return _applied(self.certain, kept)


def _applied(content: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    if not changes:
        return content
    result = bytearray(content)
    for offset, data in changes:
        if data is None:
            del result[offset:]
            offset, data = max(offset, len(result)), b""
        result.extend(bytes(max(0, offset - len(result))))
        result[offset : offset + len(data)] = data
    return bytes(result)


def _torn(change: tuple[int, bytes | None], stream: random.Random) -> tuple[int, bytes | None]:
    offset, data = change
    if data is None or stream.random() < 0.5:
        return change
    # Sectors are whole on the disk, wherever the write began.
    end = (offset + stream.randrange(len(data) + 1)) // SECTOR * SECTOR
    return offset, data[: max(0, end - offset)]


@dataclass(eq=False)
class Folder:
    """Entries as seen, entries that are certain, and the changes in between."""

    entries: dict[str, File | Folder] = field(default_factory=dict)
    certain: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[_Entry] = field(default_factory=list)

    def sync(self) -> None:
        """Everything becomes certain, with the other half of a move between folders."""
        for entry in list(self.pending):
            entry.settle()

    def settled_in_part(self, stream: random.Random) -> None:
        """A first part of the changes becomes certain."""
        keep = stream.choice((0, len(self.pending), stream.randint(0, len(self.pending))))
        for entry in self.pending[:keep]:
            entry.settle()


@dataclass(eq=False)
class _Entry:
    """One change: of a name in a folder to a file or folder, or to None; a move has two."""

    parts: tuple[tuple[Folder, str, File | Folder | None], ...]

    def settle(self) -> None:
        for folder, name, node in self.parts:
            _set(folder.certain, name, node)
            if self in folder.pending:
                folder.pending.remove(self)


def _set(entries: dict[str, File | Folder], name: str, node: File | Folder | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


class Disk:
    """The watched folder, from its state before the recording on."""

    def __init__(self, before: Path) -> None:
        self._root = _loaded(before)

    def apply(self, change: Change, *, synced: bool = True) -> None:
        """Do one change; ``synced=False`` is an fsync that was taken out."""
        folder, name = self._folder(change.path.parent), change.path.name
        node = folder.entries.get(name)
        match change.op:
            case Op.CREATE:
                self._enter((folder, name, File()))
            case Op.MKDIR:
                self._enter((folder, name, Folder()))
            case Op.UNLINK | Op.RMDIR:
                self._enter((folder, name, None))
            case Op.RENAME:
                target = self._folder(change.other.parent)
                self._enter((folder, name, None), (target, change.other.name, node))
            case Op.WRITE if isinstance(node, File):
                node.pending.append((change.offset, change.data))
            case Op.TRUNCATE if isinstance(node, File):
                node.pending.append((change.offset, None))
            case Op.SYNC if synced and node is not None:
                node.sync()

    def _enter(self, *parts: tuple[Folder, str, File | Folder | None]) -> None:
        entry = _Entry(parts)
        for folder, name, node in parts:
            _set(folder.entries, name, node)
            if entry not in folder.pending:
                folder.pending.append(entry)

    def _folder(self, path: PurePosixPath) -> Folder:
        node: File | Folder = self._root
        for name in path.parts:
            assert isinstance(node, Folder)
            node = node.entries[name]
        assert isinstance(node, Folder)
        return node

    def write(self, target: Path, cut: str | None, seed: int) -> None:
        """Lay the disk out at ``target``; the home ``cut`` as it may be after a power cut.

        Uses the disk up.
        """
        stream = random.Random(seed)
        for name, node in self._root.entries.items():
            if name == cut:
                for folder in [f for f in _walk(node) if isinstance(f, Folder)]:
                    folder.settled_in_part(stream)
            _lay_out(target / name, node, stream if name == cut else None)


def _walk(node: File | Folder) -> Iterator[File | Folder]:
    yield node
    if isinstance(node, Folder):
        for child in {id(n): n for n in (*node.entries.values(), *node.certain.values())}.values():
            yield from _walk(child)


def _loaded(path: Path) -> Folder:
    folder = Folder()
    for child in path.iterdir():
        node = _loaded(child) if child.is_dir() else File(child.read_bytes())
        folder.entries[child.name] = folder.certain[child.name] = node
    return folder


def _lay_out(path: Path, node: File | Folder, stream: random.Random | None) -> None:
    if path.name.endswith(_MAPPED):
        return
    if isinstance(node, File):
        path.write_bytes(node.after_cut(stream) if stream else node.live())
        path.chmod(0o600)
        return
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, child in (node.certain if stream else node.entries).items():
        _lay_out(path / name, child, stream)


def kind(change: Change) -> str:
    """What is synced, with the parts of its name that differ from run to run left out."""
    inside = PurePosixPath(*change.path.parts[1:])
    return _TEMPORARY.sub("*", str(inside))


def site(change: Change) -> tuple[str, str, str]:
    """Which fsync this is: appliance or coordinator, the step that asks for it, and of what."""
    side = "coordinator" if change.owner == "coordinator" else "appliance"
    return side, change.step, kind(change)
