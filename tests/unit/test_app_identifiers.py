"""Identifiers of records and decisions: RFC 9562 UUIDv7, unguessable, never given twice."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

from authz_sidecar.app import Randomness, new_id

NOW = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)


def test_an_identifier_is_a_uuid_of_version_7_and_carries_its_time() -> None:
    made = uuid.UUID(new_id(NOW, b"\xff" * 10))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == int(NOW.timestamp() * 1000)


def test_all_random_bits_reach_the_identifier() -> None:
    bits = [new_id(NOW, (1 << place).to_bytes(10)) for place in range(74)]
    assert len(set(bits)) == 74


def test_later_identifiers_sort_behind_earlier_ones() -> None:
    assert new_id(NOW, b"\xff" * 10) < new_id(NOW + timedelta(milliseconds=1), b"\x00" * 10)


def test_randomness_is_never_given_twice_across_blocks() -> None:
    source = Randomness()
    taken = [source.take(16) for _ in range(2000)]
    assert len(set(taken)) == len(taken)
    assert {len(one) for one in taken} == {16}
