"""Rules between values of the configuration. Pure: nothing here looks at the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from authz_sidecar.config.tree import Tree
from authz_sidecar.config.values import MAX_SOCKET_PATH_BYTES, TcpAddress, UnixAddress, format_duration
from authz_sidecar.documents import KeyPath
from authz_sidecar.identity.spiffe_id import TrustDomain

Finding = tuple[KeyPath, str]


def broken_rules(config: Tree) -> Iterator[Finding]:
    """Where, and what was expected. Paths in `config` are already absolute."""
    for rule in _RULES:
        yield from rule(config)


def _profile(config: Tree) -> Iterator[Finding]:
    if config.profile == "dev" and config.environment.production:
        yield (
            ("environment", "production"),
            "the `dev` profile must not touch production; set `profile: production` or `production: false`",
        )


def _identity(config: Tree) -> Iterator[Finding]:
    if config.trust_domain not in config.identity.bundles:
        yield ("identity", "bundles"), f"no bundle of the sidecar's own trust domain `{config.trust_domain}`"


def _listeners(config: Tree) -> Iterator[Finding]:
    if not config.listeners:
        yield ("listeners",), "no listener; agents reach the sidecar by one, like `unix:/run/authz/authz.sock`"
    seen: set[str] = set()
    for index, listener in enumerate(config.listeners):
        here: KeyPath = ("listeners", index, "address")
        if str(listener.address) in seen:
            yield here, "listed twice"
        seen.add(str(listener.address))
        if isinstance(listener.address, UnixAddress):
            length = len(os.fsencode(listener.address.path))
            if length > MAX_SOCKET_PATH_BYTES:
                yield here, f"{length} bytes of path; a Unix socket has room for {MAX_SOCKET_PATH_BYTES}: shorten it"
        elif listener.auth != "mtls":
            yield (
                ("listeners", index, "auth"),
                f"`{listener.auth}` sends bearer credentials, and {listener.address} is not a Unix socket; use `mtls`",
            )
        if listener.auth == "jwt-svid" and config.identity.jwt_audience is None:
            yield (
                ("identity", "jwt_audience"),
                "required by the `jwt-svid` listener; use a name that no other sidecar has, like its SPIFFE ID",
            )


def _http(config: Tree) -> Iterator[Finding]:
    address = config.http.address
    if not address.is_loopback and not config.http.allow_remote:
        yield (
            ("http", "address"),
            f"{address} is reachable from other machines; set `http.allow_remote: true` when that is meant",
        )
    taken = {listener.address for listener in config.listeners if isinstance(listener.address, TcpAddress)}
    if address.port and address in taken:
        yield ("http", "address"), f"{address} is also a listener's; take another port"


def _access(config: Tree) -> Iterator[Finding]:
    believed: set[TrustDomain] = {config.trust_domain, *config.identity.bundles}
    for role in type(config.access).model_fields:
        for index, member in enumerate(getattr(config.access, role)):
            if member.trust_domain not in believed:
                yield (
                    ("access", role, index),
                    f"no bundle of trust domain `{member.trust_domain}` in `identity.bundles`: it could never sign in",
                )


def _lifetimes(config: Tree) -> Iterator[Finding]:
    default_ttl, max_ttl = config.tasks.default_ttl, config.tasks.max_ttl
    if default_ttl > max_ttl:
        yield (
            ("tasks", "default_ttl"),
            f"{format_duration(default_ttl)} is longer than `tasks.max_ttl`, {format_duration(max_ttl)}",
        )
    if config.token.ttl.microseconds:
        yield ("token", "ttl"), "expected whole seconds: tokens count in seconds"


def _sizes(config: Tree) -> Iterator[Finding]:
    if config.limits.max_arguments_bytes >= config.limits.max_message_bytes:
        yield (
            ("limits", "max_arguments_bytes"),
            f"expected less than `limits.max_message_bytes`, {config.limits.max_message_bytes}: "
            "a message holds the arguments and more",
        )


def _keys(config: Tree) -> Iterator[Finding]:
    if config.token.signing_key == config.ledger.checkpoint_key:
        yield ("token", "signing_key"), "also `ledger.checkpoint_key`; each key has one use"


_RULES: tuple[Callable[[Tree], Iterator[Finding]], ...] = (
    _profile,
    _identity,
    _listeners,
    _http,
    _access,
    _lifetimes,
    _sizes,
    _keys,
)
