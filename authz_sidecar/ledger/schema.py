"""The database file: its tables, its creation, and how connections to it are opened.

`entry.body` holds the exact bytes of the leaf, `entry.batch` the first index of the transaction that brought it, `node`
the roots of full tiles (256 leaves and their powers), `checkpoint` every signed note, `log` the one row of facts about
the file itself. The rest are projections.

Records come in through the view `incoming`, whose trigger distributes them. SQLite hands the interpreter lock over at
every statement, and beside a busy event loop each hand-over can cost milliseconds; so a batch is one statement, and
everything that can be derived from a row is derived inside it.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from authz_sidecar.ledger.checkpoint import Checkpoint, sign_checkpoint
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.projections import INDEX_COLUMNS, SETTLING
from authz_sidecar.ledger.projections import SCHEMA as PROJECTIONS
from authz_sidecar.ledger.tree import EMPTY_ROOT

FORMAT = 1
DATABASE = "ledger.db"
WAL = "ledger.db-wal"
LOCK = "LOCK"

Connect = Callable[..., sqlite3.Connection]

_SCHEMA = """
CREATE TABLE log (
    one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, origin TEXT NOT NULL, vkey TEXT NOT NULL,
    epoch INTEGER NOT NULL, run_start INTEGER NOT NULL, clean INTEGER NOT NULL
) STRICT;
CREATE TABLE entry (
    idx INTEGER PRIMARY KEY, batch INTEGER NOT NULL, leaf_hash BLOB NOT NULL, payload INTEGER, body BLOB NOT NULL
) STRICT;
CREATE TABLE payload (
    idx INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, shared INTEGER NOT NULL, content BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX payload_shared ON payload (sha256) WHERE shared = 1;
CREATE TABLE node (
    level INTEGER, idx INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoint (size INTEGER PRIMARY KEY, note TEXT NOT NULL) STRICT;
"""

INCOMING_COLUMNS = (
    "idx", "epoch", "batch", "leaf_hash", "body", "payload_sha256", "payload_shared", "payload_content", "read_level",
    "owed_from", *INDEX_COLUMNS,
)  # fmt: skip

_SETTLING = ", ".join(f"'{kind}'" for kind in SETTLING)
_INCOMING = f"""
CREATE VIEW incoming AS SELECT {", ".join(f"NULL AS {column}" for column in INCOMING_COLUMNS)} WHERE FALSE;
CREATE TRIGGER incoming_record INSTEAD OF INSERT ON incoming BEGIN
    SELECT RAISE (ABORT, 'stale epoch') WHERE NOT EXISTS (SELECT 1 FROM log WHERE epoch = NEW.epoch);
    INSERT INTO payload (idx, sha256, shared, content)
        SELECT NEW.idx, NEW.payload_sha256, NEW.payload_shared, NEW.payload_content WHERE NEW.payload_shared IS NOT NULL
        ON CONFLICT (sha256) WHERE shared = 1 DO NOTHING;
    INSERT INTO entry (idx, batch, leaf_hash, payload, body) VALUES (
        NEW.idx, NEW.batch, NEW.leaf_hash,
        CASE NEW.payload_shared
            WHEN 0 THEN NEW.idx
            WHEN 1 THEN (SELECT idx FROM payload WHERE shared = 1 AND sha256 = NEW.payload_sha256)
        END,
        NEW.body);
    INSERT INTO record_index (idx, {", ".join(INDEX_COLUMNS)})
        VALUES (NEW.idx, {", ".join(f"NEW.{column}" for column in INDEX_COLUMNS)});
    INSERT INTO session (task_id, idx, calls, max_read)
        SELECT NEW.task_id, NEW.idx, 1, NEW.read_level WHERE NEW.read_level IS NOT NULL
        ON CONFLICT (task_id) DO UPDATE SET idx = excluded.idx, calls = calls + 1,
            max_read = max(max_read, excluded.max_read);
    INSERT INTO session_tool (task_id, tool, calls)
        SELECT NEW.task_id, NEW.tool, 1 WHERE NEW.read_level IS NOT NULL
        ON CONFLICT (task_id, tool) DO UPDATE SET calls = calls + 1;
    INSERT INTO owed (decision_id, idx, token_expires_at)
        SELECT NEW.decision_id, NEW.idx, NEW.owed_from WHERE NEW.owed_from IS NOT NULL
        ON CONFLICT (decision_id) DO NOTHING;
    DELETE FROM owed WHERE decision_id = NEW.decision_id AND NEW.type IN ({_SETTLING});
END;
"""  # noqa: S608 - names are constants


def create_database(path: Path, signer: Signer) -> None:
    """Make an empty ledger at `path`, whole and durable, with a signed checkpoint of size 0.

    It is built under another name and given its own last, so that a file called `ledger.db` that is empty or not a
    ledger is always damage, never an interrupted creation. Raises FileExistsError when `path` is taken, and OSError.
    """
    descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN; {_SCHEMA} {PROJECTIONS} {_INCOMING}")
            connection.execute(
                "INSERT INTO log (one, format, origin, vkey, epoch, run_start, clean) VALUES (1, ?, ?, ?, 0, 0, 1)",
                (FORMAT, signer.name, signer.vkey),
            )
            note = sign_checkpoint(Checkpoint(signer.name, 0, EMPTY_ROOT), signer)
            connection.execute("INSERT INTO checkpoint (size, note) VALUES (0, ?)", (note,))
            connection.execute("COMMIT")
        finally:
            # The last connection moves the write-ahead log into the file and removes it.
            connection.close()
        os.link(temporary, path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def open_writer(path: Path, connect: Connect, busy_timeout_s: float) -> sqlite3.Connection:
    """The one connection that writes. It is handed to the writer thread, hence `check_same_thread`."""
    connection = connect(
        _uri(path, "mode=rw"),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_timeout_s,
        cached_statements=256,
    )
    for pragma in (
        "synchronous = FULL",
        # A failed sync in an automatic checkpoint is not reported to the statement that caused it.
        "wal_autocheckpoint = 0",
        "cache_size = -8192",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def open_reader(path: Path, connect: Connect = sqlite3.connect, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that cannot write. `immutable` is for files that nobody writes, in directories nobody can write."""
    query = "mode=ro&immutable=1" if immutable else "mode=ro"
    connection = connect(_uri(path, query), uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _uri(path: Path, query: str) -> str:
    return f"file:{quote(str(path.absolute()))}?{query}"
