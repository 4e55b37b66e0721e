"""Times on the command line: an instant, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from authz_sidecar.cli.failure import Unusable

_AGO = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_moment(option: str, text: str | None, now: datetime) -> datetime | None:
    """An instant from RFC 3339 text with an offset, from a day (its start in UTC), or from `15m`, `2h`, `7d` ago.

    None for None.

    Raises Unusable naming `option`.
    """
    if text is None:
        return None
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if _DATE.fullmatch(text):
        text += "T00:00:00Z"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or len(text) < len("2026-01-31T12:00Z"):
        raise Unusable(
            f"`{option} {text[:40]}`: expected a time with an offset like 2026-01-31T12:00:00Z, a day (UTC) like "
            "2026-01-31, or how long ago like 90s, 15m, 2h or 7d"
        )
    return moment.astimezone(UTC)


def parse_duration(option: str, text: str | None) -> timedelta | None:
    """A duration from `90s`, `15m`, `2h`, `7d`; None for None. Raises Unusable naming `option`."""
    if text is None:
        return None
    found = _AGO.fullmatch(text)
    if found is None:
        raise Unusable(f"`{option} {text[:40]}`: expected a duration like 90s, 15m, 2h or 7d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
