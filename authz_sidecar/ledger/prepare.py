"""From a record to the bytes that will be stored. Everything that can be wrong with a record is found here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from authz_sidecar.ledger.projections import Derived, derive
from authz_sidecar.ledger.records import Record, SealedPayload, check_record, entry_bytes, seal_payload
from authz_sidecar.ledger.tree import leaf_hash
from authz_sidecar.strictjson import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEntry:
    """A record that passed every check, as it will be stored; only its index is missing."""

    body: bytes
    leaf_hash: bytes
    payload: SealedPayload | None
    derived: Derived

    @property
    def size(self) -> int:
        """Bytes of body and payload."""
        return len(self.body) + (len(self.payload.content) if self.payload else 0)


def prepare(record: Record, *, not_before: str, new_salt: Callable[[], bytes]) -> PreparedEntry:
    """Check, complete and serialise a record.

    Args:
        not_before: time of the newest record, in the records' spelling, or empty; an older record gets this time, so
            that times never go back along the log.
        new_salt: at least 16 fresh random bytes.

    Raises:
        MalformedRecord, NotCanonical: see `records`.
    """
    check_record(record)
    body: dict[str, Json] = {**record.body}
    if str(body["time"]) < not_before:
        body["time"] = not_before
    payload = None
    if record.payload is not None:
        payload = seal_payload(record.payload, new_salt() if record.salted else None)
        body["payload"] = {"sha256": payload.sha256.hex(), "size": len(payload.content)}
    content = entry_bytes(body)
    return PreparedEntry(body=content, leaf_hash=leaf_hash(content), payload=payload, derived=derive(body))
