"""Time as the project sees it: aware UTC datetimes, read once per request and passed down."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

Now = Callable[[], datetime]

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z")


def system_now() -> datetime:
    """The wall clock. Only the composition root and the client pass this on."""
    return datetime.now(UTC)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with exactly six fractional digits and `Z`: one spelling per instant."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Inverse of `format_time`. Raises ValueError for any other spelling of the same instant."""
    if not _RFC3339.fullmatch(text):
        raise ValueError(f"expected a time like 2026-01-31T12:00:00.000000Z, got `{text[:40]}`")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
