"""SPIFFE IDs as value types: only a parse makes one, so holding one means it was checked.

Source: SPIFFE-ID standard, sections 2 and 2.3 (github.com/spiffe/spiffe, standards/SPIFFE-ID.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MAX_ID_BYTES = 2048
_MAX_TRUST_DOMAIN_BYTES = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


class MalformedSpiffeId(ValueError):
    """The text is not a SPIFFE ID, or not one of the kind that is needed here."""


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """The name of a trust domain, without scheme."""

    name: str

    def __post_init__(self) -> None:
        if len(self.name) > _MAX_TRUST_DOMAIN_BYTES:
            raise MalformedSpiffeId(f"trust domain longer than {_MAX_TRUST_DOMAIN_BYTES} bytes")
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise MalformedSpiffeId(
                f"trust domain `{self.name[:64]}` has characters outside lower-case letters, digits, `.`, `-`, `_`"
            )

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`spiffe://<trust domain><path>`. `path` is empty or starts with `/`."""

    trust_domain: TrustDomain
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain.name}{self.path}"

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Parse a SPIFFE ID. Raises MalformedSpiffeId; never normalises."""
        if len(text) > _MAX_ID_BYTES:
            raise MalformedSpiffeId(f"longer than {_MAX_ID_BYTES} bytes")
        scheme, separator, rest = text.partition("://")
        if scheme != "spiffe" or not separator:
            raise MalformedSpiffeId(f"`{text[:64]}` does not start with `spiffe://`")
        authority, slash, path = rest.partition("/")
        trust_domain = TrustDomain(authority)
        if slash:
            for segment in path.split("/"):
                if segment in ("", ".", "..") or not _SEGMENT.fullmatch(segment):
                    raise MalformedSpiffeId(f"path of `{text[:64]}` has an empty, relative or malformed segment")
        return cls(trust_domain, slash + path)

    @classmethod
    def parse_workload(cls, text: str) -> SpiffeId:
        """Like `parse`, and refuse the root path, which names a trust domain's authority and never a workload."""
        parsed = cls.parse(text)
        if not parsed.path:
            raise MalformedSpiffeId(f"`{text[:64]}` has no path: it names a trust domain, not a workload")
        return parsed
