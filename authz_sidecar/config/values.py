"""The value types of the configuration file: durations, addresses, SPIFFE IDs, each with one spelling.

Every parser raises ValueError with a message that says what was expected; the loader adds file, line and key.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, PlainSerializer, PlainValidator

from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain

# sun_path of sockaddr_un holds 108 bytes with its final zero (unix(7)).
MAX_SOCKET_PATH_BYTES = 107

_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s|m|h|d)")
_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
T = TypeVar("T")


def parse_duration(text: str) -> timedelta:
    """`500ms`, `120s`, `15m`, `8h` or `30d`: one whole number and one unit. Raises ValueError."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a duration like `500ms`, `120s`, `15m`, `8h` or `30d`, got `{text[:32]}`")
    return int(found[1]) * _UNITS[found[2]]


def format_duration(duration: timedelta) -> str:
    """The shortest text that parses to `duration`, which is a whole number of milliseconds."""
    for unit in ("d", "h", "m", "s"):
        if duration and not duration % _UNITS[unit]:
            return f"{duration // _UNITS[unit]}{unit}"
    return f"{duration // _UNITS['ms']}ms" if duration else "0s"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket. Its spelling is gRPC's target syntax, `unix:/run/authz/authz.sock`."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP address to listen on. Port 0 takes a free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect. A host name other than `localhost` is taken for remote."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(text: str) -> UnixAddress | TcpAddress:
    """A listener: `unix:/path`, `host:port` or `[v6]:port`. Raises ValueError."""
    if not text.startswith("unix:"):
        return parse_tcp_address(text)
    path = text.removeprefix("unix:").removeprefix("//")
    if not path or "\0" in path:
        raise ValueError("expected a path after `unix:`, like `unix:/run/authz/authz.sock`")
    return UnixAddress(Path(path))


def parse_tcp_address(text: str) -> TcpAddress:
    """`host:port` or `[v6]:port`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"expected `host:port`, got `{text[:64]}`")
    if not (port.isascii() and port.isdigit() and str(int(port)) == port and int(port) <= 65535):
        raise ValueError(f"expected a port from 0 to 65535 after the last `:`, got `{port[:16]}`")
    if host.startswith("[") and host.endswith("]"):
        try:
            return TcpAddress(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise ValueError(f"expected an IPv6 address in the brackets, got `{host[1:-1][:64]}`") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"expected a host name or an IP address (IPv6 in brackets) before the port, got `{host[:64]}`")
    return TcpAddress(host, int(port))


def _issuer(url: str) -> str:
    parts = _split_url(url)
    if parts[0] != "https" or parts[2]:
        raise ValueError("expected an `https://` URL without query and fragment (RFC 8414 section 2)")
    return url


def _collector(url: str) -> str:
    scheme, port, extra = _split_url(url)
    if scheme not in ("http", "https") or port is None or extra:
        raise ValueError("expected `http://host:port` or `https://host:port` of an OTLP gRPC receiver")
    return url


def _split_url(url: str) -> tuple[str, int | None, bool]:
    """Scheme, port, and whether it carries a user, a query or a fragment. Raises ValueError without a host."""
    parts = urlsplit(url)
    if not parts.hostname or not url.isascii() or any(char.isspace() for char in url):
        raise ValueError(f"expected a URL with a host, got `{url[:64]}`")
    return parts.scheme, parts.port, bool(parts.query or parts.fragment or parts.username or "#" in url or "?" in url)


def _origin(text: str) -> str:
    # C2SP signed-note: a key name is not empty and has neither spaces nor `+`; the origin is used as one.
    if not 0 < len(text) <= 255 or not text.isascii() or not text.isprintable() or " " in text or "+" in text:
        raise ValueError(
            "expected a name like `example.org/authz-sidecar/agent`: at most 255 characters, no space, no `+`"
        )
    return text


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ValueError("expected 1 to 64 letters, digits, `.`, `_` or `-`, starting with a letter or a digit")
    return text


def _text(parse: Callable[[str], T]) -> Callable[[Any], T]:
    """`parse` for values that may be of any JSON type or already parsed defaults."""

    def checked(value: Any) -> T:
        if not isinstance(value, str):
            raise ValueError(f"expected text, got {type(value).__name__}; put it in quotes")  # noqa: TRY004
        return parse(value)

    return checked


def within(low: str, high: str) -> AfterValidator:
    """Bounds of a duration, both included."""
    least, most = parse_duration(low), parse_duration(high)

    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise ValueError(f"expected a duration from {low} to {high}, got {format_duration(value)}")
        return value

    return AfterValidator(check)


_AS_TEXT = PlainSerializer(str, return_type=str)

Duration = Annotated[
    timedelta, PlainValidator(_text(parse_duration)), PlainSerializer(format_duration, return_type=str)
]
Listen = Annotated[UnixAddress | TcpAddress, PlainValidator(_text(parse_address)), _AS_TEXT]
ListenTcp = Annotated[TcpAddress, PlainValidator(_text(parse_tcp_address)), _AS_TEXT]
WorkloadId = Annotated[SpiffeId, PlainValidator(_text(SpiffeId.parse_workload)), _AS_TEXT]
Domain = Annotated[TrustDomain, PlainValidator(_text(TrustDomain)), _AS_TEXT]
IssuerUrl = Annotated[str, AfterValidator(_issuer)]
CollectorUrl = Annotated[str, AfterValidator(_collector)]
Origin = Annotated[str, AfterValidator(_origin)]
Name = Annotated[str, AfterValidator(_name)]
