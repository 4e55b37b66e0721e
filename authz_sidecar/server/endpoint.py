"""Where the gRPC server listens, and that nobody else listens there.

gRPC lets a second process bind the same Unix socket path or TCP port without an error (grpc/grpc#10755, #16920): new
connections would go to the second server. So the socket path is locked before it is bound, and port sharing is off.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import grpc

from authz_sidecar.errors import OperatorError
from authz_sidecar.identity.source import IdentitySnapshot

_SOCKET_MODE = 0o660
_LONGEST_SOCKET_PATH = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One address. `unix:/path` or `host:port`; `jwt-svid` listeners have no TLS and are Unix sockets only."""

    address: str
    auth: Literal["mtls", "jwt-svid"]

    @property
    def socket_path(self) -> Path | None:
        return Path(self.address.removeprefix("unix:")) if self.address.startswith("unix:") else None


class SocketLock:
    """Holds a Unix socket path for this process: a lock file beside it, released when the process ends."""

    def __init__(self, path: Path) -> None:
        """Raises OperatorError when the path is unusable or another process holds it."""
        if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
            raise OperatorError(f"socket path `{path}` is longer than {_LONGEST_SOCKET_PATH} bytes; use a shorter one")
        directory = path.parent
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if directory.stat().st_mode & stat.S_IWOTH:
            raise OperatorError(
                f"socket directory `{directory}` is writable by everyone, who could replace the socket;"
                " use a directory of the sidecar's own with mode 0750"
            )
        lock = path.with_name(path.name + ".lock")
        self._descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise OperatorError(
                f"another sidecar serves `{path}` (it holds `{lock}`); stop it or use another socket"
            ) from None

    def release(self) -> None:
        os.close(self._descriptor)


def server_options(*, max_message_bytes: int, max_connection_age: timedelta) -> list[tuple[str, int]]:
    """Channel options that bound what a peer can do, and make TLS handshakes recur so that rotation takes effect."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Twice the longest JWT-SVID, so that one that is too long is refused by name; gRPC's own limit is 8 KiB.
        ("grpc.max_metadata_size", 16_384),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.max_connection_age_ms", int(max_connection_age.total_seconds() * 1000)),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def server_credentials(current: Callable[[], IdentitySnapshot]) -> grpc.ServerCredentials:
    """Mutual TLS with the newest SVID and bundles for each new connection.

    The roots of all trust domains go into one pool here because TLS knows no trust domains; who may speak for which
    domain is checked again for every call by `identity.x509_svid`.
    """

    def configuration(snapshot: IdentitySnapshot) -> grpc.ServerCertificateConfiguration:
        roots = snapshot.bundles.x509_roots_pem()
        return grpc.ssl_server_certificate_configuration(
            [(snapshot.svid.key_pem, snapshot.svid.chain_pem)], root_certificates=roots
        )

    return grpc.dynamic_ssl_server_credentials(
        configuration(current()), lambda: configuration(current()), require_client_authentication=True
    )


def listen(server: grpc.aio.Server, listener: Listener, credentials: grpc.ServerCredentials) -> int:
    """Bind one listener and return its TCP port. Raises OperatorError when the address is taken or unusable."""
    try:
        if listener.auth == "mtls":
            return server.add_secure_port(listener.address, credentials)
        return server.add_insecure_port(listener.address)
    except RuntimeError:
        raise OperatorError(f"cannot listen on `{listener.address}`: it is in use or not a local address") from None


def open_to_group(listener: Listener) -> None:
    """Let the socket's group connect: gRPC creates the socket by the umask, and connecting needs write permission."""
    if listener.socket_path is not None:
        listener.socket_path.chmod(_SOCKET_MODE)
