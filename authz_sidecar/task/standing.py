"""Whether an agent may work at all: the kill switch as one transition table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Standing(StrEnum):
    WORKING = "working"
    SUSPENDED = "suspended"


class StandingEvent(StrEnum):
    SUSPEND = "suspend"
    RESUME = "resume"


# What is missing changes nothing: suspending the suspended, resuming who works.
TRANSITIONS: Mapping[tuple[Standing, StandingEvent], Standing] = MappingProxyType(
    {
        (Standing.WORKING, StandingEvent.SUSPEND): Standing.SUSPENDED,
        (Standing.SUSPENDED, StandingEvent.RESUME): Standing.WORKING,
    }
)
