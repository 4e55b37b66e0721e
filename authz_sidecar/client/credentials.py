"""How the client proves who it is: an X.509-SVID over mutual TLS, or a JWT-SVID over a Unix socket.

gRPC clients cannot reload certificates (grpc/grpc#41779), so each source says when a new channel is needed.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # The sidecar is never behind the proxy that the environment names for the internet.
    ("grpc.enable_http_proxy", 0),
    # One channel, one connection: a new channel must not inherit a connection made with an old certificate.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC waits one second, then longer, before it connects again; a restarted sidecar is back sooner than that.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # In spite of its name this is how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 2_000),
)
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
# gRPC drops metadata at random above its soft limit of 8 KiB.
_LONGEST_JWT = 7 * 1024


class CredentialUnusable(Exception):
    """The credential cannot be read or is not one. The message names the file and the remedy."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A new channel, the metadata that each call on it carries, and the version of the credential behind it."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]
    version: object


class ChannelSource(Protocol):
    """Where channels come from."""

    def open_unless(self, version: object) -> Opened | None:
        """A channel for the credential as it is now; None when that is still `version`. Raises CredentialUnusable."""


@dataclass(frozen=True, slots=True)
class SvidFiles:
    """PEM files of an X.509-SVID, as a SPIFFE agent or spiffe-helper keeps them up to date.

    `cert` is the chain, leaf first; `key` its private key, unencrypted; `bundle` the authorities of the trust domain of
    the sidecar. All three are read again when any of them changes.
    """

    cert: str | os.PathLike[str]
    key: str | os.PathLike[str]
    bundle: str | os.PathLike[str]


class MutualTls:
    """Channels that authenticate by the SVID in `files` and trust a server that is `server_name` under the bundle.

    Not checked: the server's SPIFFE ID. TLS in gRPC compares DNS names only, so whoever may have an SVID with this DNS
    name in the trust domain can pose as the sidecar; registration entries must not give it to anything else.
    """

    def __init__(self, target: str, files: SvidFiles, server_name: str) -> None:
        self._target = target
        self._files = files
        self._options = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name))

    def open_unless(self, version: object) -> Opened | None:
        """See ChannelSource. A certificate without its key, as in the middle of a rotation, is unusable."""
        current = self._signature()
        if current == version:
            return None
        self._check()
        try:
            chain = Path(self._files.cert).read_bytes()
            key = Path(self._files.key).read_bytes()
            bundle = Path(self._files.bundle).read_bytes()
        except OSError as error:
            raise _unreadable(error) from None
        if self._signature() != current:
            raise CredentialUnusable(
                "the SVID files changed while they were read; they are read again at the next call"
            )
        credentials = grpc.ssl_channel_credentials(root_certificates=bundle, private_key=key, certificate_chain=chain)
        channel = grpc.aio.secure_channel(self._target, credentials, options=self._options)
        return Opened(channel, (), current)

    def _signature(self) -> tuple[tuple[int, ...], ...]:
        """Changes when a file is written, replaced, or reached through a symbolic link that now points elsewhere."""
        try:
            found = [Path(path).stat() for path in (self._files.cert, self._files.key, self._files.bundle)]
        except OSError as error:
            raise _unreadable(error) from None
        return tuple((each.st_dev, each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

    def _check(self) -> None:
        """Refuse what gRPC would only fail on at the handshake, or, with an empty bundle, replace by public roots."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self._files.cert, self._files.key, password="")
        except (OSError, ValueError):
            raise CredentialUnusable(
                f"`{self._files.cert}` and `{self._files.key}` are not a certificate chain and its unencrypted key"
                " in PEM; check that they are of the same rotation"
            ) from None
        try:
            context.load_verify_locations(cafile=self._files.bundle)
        except (OSError, ValueError):
            authorities = 0
        else:
            authorities = context.cert_store_stats()["x509_ca"]
        if authorities == 0:
            raise CredentialUnusable(
                f"`{self._files.bundle}` holds no certificate authority in PEM; write the trust bundle there"
            )


class BearerJwtSvid:
    """Channels over a Unix socket whose calls carry a JWT-SVID from a callable or a file."""

    def __init__(self, target: str, source: Callable[[], str] | os.PathLike[str]) -> None:
        """Raises ValueError for a target that would carry the bearer credential over a network in the clear."""
        if not target.startswith(("unix:", "unix-abstract:")):
            raise ValueError(f"`jwt_svid` needs a `unix:` target, got `{target}`; use `svid` over TCP")
        if not (callable(source) or isinstance(source, os.PathLike)):
            raise TypeError("`jwt_svid` must be a callable that returns the token, or the Path of a file that holds it")
        self._target = target
        self._source = source

    def open_unless(self, version: object) -> Opened | None:
        """See ChannelSource. The version is the token itself, so that a renewed one takes effect at once."""
        token = self._read()
        if token == version:
            return None
        if len(token) > _LONGEST_JWT or not _JWT.fullmatch(token):
            raise CredentialUnusable(
                f"`jwt_svid` gave no compact JWS of at most {_LONGEST_JWT} characters; check where it comes from"
            )
        channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)
        return Opened(channel, (("authorization", f"Bearer {token}"),), token)

    def _read(self) -> str:
        if not callable(self._source):
            try:
                return Path(self._source).read_text("ascii").strip()
            except OSError as error:
                raise _unreadable(error) from None
            except UnicodeDecodeError:
                return ""
        try:
            return str(self._source())
        except Exception as error:
            raise CredentialUnusable(f"the `jwt_svid` callable raised {type(error).__name__}") from error


def _unreadable(error: OSError) -> CredentialUnusable:
    return CredentialUnusable(f"cannot read `{error.filename}`: {error.strerror}; check the path and its permissions")
