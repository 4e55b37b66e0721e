"""The checks behind `doctor`. Each looks at one thing, changes nothing, and says what it found."""

from __future__ import annotations

import errno
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authz_sidecar.cli.failure import Unreachable
from authz_sidecar.cli.healthcheck import ask_ready, reachable
from authz_sidecar.clock import format_time, parse_time
from authz_sidecar.config import Config
from authz_sidecar.config.values import TcpAddress, UnixAddress
from authz_sidecar.errors import IntegrityFailure, SidecarError
from authz_sidecar.identity.certificate import load_pem_chain, to_pem
from authz_sidecar.identity.source import FileIdentitySource
from authz_sidecar.identity.x509_svid import X509SvidVerifier
from authz_sidecar.ledger.checkpoint import open_checkpoint
from authz_sidecar.ledger.note import NoteError, Signer
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.pdp.compile import BundleRejected, compile_bundle
from authz_sidecar.policy.bundle import read_bundle
from authz_sidecar.token.keys import SigningKey

Status: TypeAlias = Literal["ok", "note", "failed", "unsafe"]

_SERVER_NAME = "authz-sidecar"
_LITTLE_TIME = timedelta(hours=1)
_LITTLE_SPACE = 256 * 1024 * 1024
_CLOCK_TOLERANCE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `note` stops nothing; `unsafe` puts keys or evidence at risk."""

    check: str
    status: Status
    detail: str
    remedy: str = ""

    @classmethod
    def from_message(cls, check: str, status: Status, message: str) -> Finding:
        """Messages of this project say what is wrong and, behind a semicolon, what to do."""
        detail, _, remedy = message.partition("; ")
        return cls(check, status, detail, remedy)


def diagnose(config: Config, now: datetime) -> Iterator[Finding]:
    """All checks of a configuration that loads, in the order in which `serve` would meet them."""
    running = _is_running(config)
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("identity", lambda: _identity(config, now)),
        ("token key", lambda: _token_key(config)),
        ("checkpoint key", lambda: _checkpoint_key(config)),
        ("policies", lambda: _policies(config)),
        ("ledger", lambda: _ledger(config, now)),
        ("listeners", lambda: _listeners(config, running)),
        ("http", lambda: _http(config, running)),
    )
    for name, check in checks:
        try:
            yield from check()
        except IntegrityFailure as error:
            yield Finding.from_message(name, "unsafe", error.message)
        except SidecarError as error:
            yield Finding.from_message(name, "failed", error.message)
        except OSError as error:
            yield Finding(name, "failed", f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))


def permissions(config_file: Path) -> Iterator[Finding]:
    """Who else could change what the sidecar believes."""
    yield from _not_writable_by_others("permissions", config_file)


def _identity(config: Config, now: datetime) -> Iterator[Finding]:
    svid = config.identity.svid
    source = FileIdentitySource(
        svid_cert=svid.certificate, svid_key=svid.private_key, bundles=config.identity.bundles
    ).current()
    own = source.svid
    if own.not_after <= now:
        yield Finding("identity", "failed", f"the SVID expired at {format_time(own.not_after)}", "issue a new one")
        return
    X509SvidVerifier().verify(
        leaf_pem=to_pem([own.leaf]),
        intermediates_pem=to_pem(load_pem_chain(own.chain_pem)[1:]),
        bundles=source.bundles,
        now=now,
    )
    soon = own.not_after - now < _LITTLE_TIME
    yield Finding("identity", "note" if soon else "ok", f"{own.spiffe_id}, valid until {format_time(own.not_after)}")
    names = own.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if _SERVER_NAME not in names.get_values_for_type(x509.DNSName):
        yield Finding(
            "identity",
            "note",
            f"the SVID has no DNS name `{_SERVER_NAME}`, which clients expect",
            "add it to the registration entry, or set the clients' server name",
        )


def _token_key(config: Config) -> Iterator[Finding]:
    yield Finding("token key", "ok", f"kid {SigningKey.load(config.token.signing_key).kid}")


def _checkpoint_key(config: Config) -> Iterator[Finding]:
    path = config.ledger.checkpoint_key
    signer = _checkpoint_signer(config)
    if signer is None:
        yield Finding("checkpoint key", "failed", f"{path} is not a readable Ed25519 key", "restore it from a backup")
    else:
        yield Finding("checkpoint key", "ok", f"vkey {signer.vkey}")


def _policies(config: Config) -> Iterator[Finding]:
    directory = config.policy.directory
    try:
        pdp = compile_bundle(read_bundle(directory))
    except BundleRejected as error:
        more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
        remedy = f"see `authz-sidecar policy check {directory}`"
        yield Finding("policies", "failed", f"{error.problems[0]}{more}", remedy)
        return
    yield Finding("policies", "ok", f"{len(pdp.policies)} policies, {pdp.digest}")
    yield from _not_writable_by_others("policies", directory)


def _ledger(config: Config, now: datetime) -> Iterator[Finding]:
    directory = config.ledger.directory
    yield from _space(directory)
    if not (directory / "ledger.db").exists():
        yield Finding("ledger", "ok", f"{directory} has none yet; it is made at the first start")
        return
    with LedgerReader.open(directory) as reader:
        size, note = reader.size, reader.latest_checkpoint()
        last = reader.entry(size - 1) if size else None
    signer = _checkpoint_signer(config)
    if signer is not None:
        try:
            open_checkpoint(note, [signer.vkey])
        except NoteError as error:
            remedy = "set `ledger.origin` and `ledger.checkpoint_key` as they were; if they are, keep it as evidence"
            yield Finding("ledger", "unsafe", f"the newest checkpoint is not signed with our key: {error}", remedy)
            return
    yield Finding("ledger", "ok", f"{size} entries in {directory}")
    if directory.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding("ledger", "note", f"{directory} is open to others", f"chmod 700 {directory}")
    if last is not None:
        yield _clock(parse_time(str(last.record["time"])), now)


def _clock(newest: datetime, now: datetime) -> Finding:
    if newest - now > _CLOCK_TOLERANCE:
        behind = int((newest - now).total_seconds())
        return Finding("clock", "failed", f"{behind} s behind the newest ledger entry", "correct the clock")
    return Finding("clock", "ok", "not behind the newest ledger entry")


def _checkpoint_signer(config: Config) -> Signer | None:
    try:
        key = load_pem_private_key(config.ledger.checkpoint_key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return Signer(config.ledger.origin, key.private_bytes_raw()) if isinstance(key, Ed25519PrivateKey) else None


def _space(directory: Path) -> Iterator[Finding]:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < _LITTLE_SPACE:
        remedy = "make room: when the disk is full, nothing is permitted"
        yield Finding("ledger", "note", f"{free // (1024 * 1024)} MiB left on its disk", remedy)


def _listeners(config: Config, running: bool) -> Iterator[Finding]:
    for listener in config.listeners:
        address = listener.address
        taken = _socket_taken(address) if isinstance(address, UnixAddress) else _port_taken(address)
        yield _address("listeners", str(address), taken, running)


def _http(config: Config, running: bool) -> Iterator[Finding]:
    yield _address("http", str(config.http.address), _port_taken(config.http.address), running)


def _address(check: str, address: str, taken: str | None, running: bool) -> Finding:
    if taken is None:
        return Finding(check, "ok", f"{address} is free")
    if running:
        return Finding(check, "ok", f"{address} is in use; a sidecar answers on the HTTP port")
    return Finding(check, "failed", f"{address}: {taken}", "stop what uses it, or choose another address")


def _socket_taken(address: UnixAddress) -> str | None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(address.path))
        except (FileNotFoundError, ConnectionRefusedError):
            # A socket file that nobody serves is replaced at start.
            return None
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return "another process serves it"


def _port_taken(address: TcpAddress) -> str | None:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            return "in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error)).lower()
    return None


def _is_running(config: Config) -> bool:
    address = config.http.address
    try:
        ask_ready(reachable(address.host), address.port, timeout=1)
    except Unreachable:
        return False
    return True


def _not_writable_by_others(check: str, path: Path) -> Iterator[Finding]:
    if path.stat().st_mode & stat.S_IWOTH:
        yield Finding(check, "unsafe", f"{path} can be written by everyone", f"chmod o-w {path}")
