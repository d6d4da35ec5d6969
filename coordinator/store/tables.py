"""The tables. Signed documents are kept as the exact text that was signed.

A change here comes with a revision: ``coordinator/store/migrations`` says how.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

rosters = Table(
    "rosters",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("document", Text, nullable=False),
)

invites = Table(
    "invites",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("hospital", String(63), nullable=False),
    Column("expires", Integer, nullable=False),
    Column("used_by", String(64)),
)

candidates = Table(
    "candidates",
    metadata,
    Column("hospital", String(63), primary_key=True),
    Column("identity", Text, nullable=False),
    Column("enrolled_at", Integer, nullable=False),
    Column("revoked_at", Integer),
)

rotations = Table(
    "rotations",
    metadata,
    Column("hospital", String(63), primary_key=True),
    Column("new_sha256", String(64), primary_key=True),
    Column("old_sha256", String(64), nullable=False),
    Column("identity", Text, nullable=False),
    Column("requested_at", Integer, nullable=False),
    Column("approved_at", Integer),
)

successions = Table(
    "successions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("new_sha256", String(64), nullable=False),
    Column("by_admin", Text, nullable=False),
    Column("by_former", Text, nullable=False),
)

nonces = Table(
    "nonces",
    metadata,
    Column("hospital", String(63), primary_key=True),
    Column("nonce", String(22), primary_key=True),
    Column("expires", Integer, nullable=False, index=True),
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String(10), nullable=False),
    Column("descriptor", Text, nullable=False),
    Column("card", Text, nullable=False),
    Column("turn", Integer, nullable=False),
    Column("wrapped_seed", LargeBinary),
    Column("inputs_sha256", String(64)),
    Column("adapter_sha256", String(64)),
    Column("contributions", Text),
    Column("reason", Text),
    Column("closed_at", Integer),
    Column("record", Text),
    Column("extension", Text),
    Column("examined_sha256", String(64)),
    Column("validation", Text),
    Column("looks", Integer, nullable=False, server_default="0"),
)

plans = Table(
    "plans",
    metadata,
    Column("first", Integer, ForeignKey("rounds.number"), primary_key=True, autoincrement=False),
    Column("rounds", Integer, nullable=False),
    Column("max_aborts", Integer, nullable=False),
    Column("fresh", Boolean, nullable=False),
    Column("settings", Text, nullable=False),
    Column("ended", Text),
)

uploads = Table(
    "uploads",
    metadata,
    Column("upload_id", String(32), primary_key=True),
    Column("round", Integer, ForeignKey("rounds.number"), nullable=False),
    Column("hospital", String(63), nullable=False),
    Column("request", Text, nullable=False),
    Column("body_length", Integer, nullable=False),
    Column("offset", Integer, nullable=False),
    Column("touched_at", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("header", Text),
    Column("reason", Text),
    Column("receipt", Text),
)
Index(
    "one_accepted_update",
    uploads.c.round,
    uploads.c.hospital,
    unique=True,
    sqlite_where=uploads.c.state == "accepted",
    postgresql_where=uploads.c.state == "accepted",
)

findings = Table(
    "findings",
    metadata,
    Column("upload_id", String(32), ForeignKey("uploads.upload_id"), primary_key=True),
    Column("finding", Text, nullable=False),
    Column("found_at", Integer, nullable=False),
    Column("decision", String(10)),
    Column("decision_reason", Text),
)

validations = Table(
    "validations",
    metadata,
    Column("upload_id", String(32), ForeignKey("uploads.upload_id"), primary_key=True),
    Column("set_sha256", String(64), primary_key=True),
    Column("loss", Float, nullable=False),
    Column("variance", Float),
)

log = Table(
    "log",
    metadata,
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("entry", Text, nullable=False),
)

log_nodes = Table(
    "log_nodes",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(32), nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)

progress = Table(
    "progress",
    metadata,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("hospital", String(63), primary_key=True),
    Column("phase", String(20), nullable=False),
    Column("step", Integer, nullable=False),
    Column("of", Integer, nullable=False),
    Column("at", Integer, nullable=False),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("round", Integer, ForeignKey("rounds.number"), primary_key=True),
    Column("hospital", String(63), primary_key=True),
    Column("loss", Float, nullable=False),
    Column("n_examples", Integer, nullable=False),
    Column("at", Integer, nullable=False),
)
