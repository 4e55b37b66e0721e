"""Times and durations as they are written on the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from authz_sidecar.cli.failure import Unusable
from authz_sidecar.cli.moment import parse_duration, parse_moment

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, None),
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("2h", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-02-28", datetime(2026, 2, 28, tzinfo=UTC)),
        ("2026-02-28T23:30:00+01:00", datetime(2026, 2, 28, 22, 30, tzinfo=UTC)),
        ("2026-02-28T23:30:00.250000Z", datetime(2026, 2, 28, 23, 30, 0, 250000, tzinfo=UTC)),
    ],
)
def test_an_instant_or_how_long_ago(text: str | None, moment: datetime | None) -> None:
    assert parse_moment("--since", text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-02-30", "2026-W09-6", "2026-02-28T23:30:00", "0m", "-5m", "5", "5w", "\u0665m"]
)
def test_a_time_without_an_offset_or_unit_is_refused(text: str) -> None:
    with pytest.raises(Unusable, match="--since"):
        parse_moment("--since", text, NOW)


def test_durations() -> None:
    assert parse_duration("--ttl", "90s") == timedelta(seconds=90)
    assert parse_duration("--ttl", None) is None
    with pytest.raises(Unusable, match="--ttl"):
        parse_duration("--ttl", "2026-02-28T23:30:00Z")
