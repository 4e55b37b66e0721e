"""The sections of the configuration file. Shapes and bounds of single values; rules between values are in `rules`.

Each section is what one package needs and nothing else. Paths are absolute once loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from authz_sidecar.config.values import (
    CollectorUrl,
    Domain,
    Duration,
    IssuerUrl,
    Listen,
    ListenTcp,
    Name,
    Origin,
    TcpAddress,
    WorkloadId,
    within,
)
from authz_sidecar.documents import DocumentModel


class EnvironmentSection(DocumentModel):
    """Where the agent acts; policies read both."""

    name: Name = Field(description="name of the environment, as manifests list it")
    production: bool = Field(description="whether actions here touch production systems")


class SvidFiles(DocumentModel):
    """The sidecar's own X.509-SVID, as files that something else keeps fresh."""

    certificate: Path = Field(description="PEM chain, leaf first")
    private_key: Path = Field(description="PEM key of the leaf, readable by its owner only")


class IdentitySection(DocumentModel):
    """Who the sidecar is and whom it believes."""

    svid: SvidFiles = Field(description="the sidecar's own X.509-SVID")
    bundles: Mapping[Domain, Path] = Field(
        default_factory=dict, description="trust domain -> trust bundle (SPIFFE JSON or PEM); its own is required"
    )
    refresh: Annotated[Duration, within("1s", "1h")] = Field(
        default=timedelta(seconds=10), description="how often the files are looked at for changes"
    )
    jwt_audience: str | None = Field(
        default=None, min_length=1, description="audience of JWT-SVIDs; required by a `jwt-svid` listener"
    )


class ListenerSection(DocumentModel):
    """One gRPC listener."""

    address: Listen = Field(description="`unix:/path` or `host:port`")
    auth: Literal["mtls", "jwt-svid"] = Field(
        description="how callers identify themselves; `jwt-svid` on Unix sockets only"
    )


class HttpSection(DocumentModel):
    """Health, metrics and JWKS. All of it is public data."""

    address: ListenTcp = Field(default=TcpAddress("127.0.0.1", 9180), description="`host:port`")
    allow_remote: bool = Field(default=False, description="whether an address beyond loopback is meant")


class AccessSection(DocumentModel):
    """SPIFFE IDs of callers with a role. Agents need no entry: they act on their own tasks."""

    operators: tuple[WorkloadId, ...] = Field(
        default=(), description="may see every task, introspect tokens and read the ledger"
    )
    auditors: tuple[WorkloadId, ...] = Field(default=(), description="may read the ledger")
    resource_servers: tuple[WorkloadId, ...] = Field(default=(), description="may introspect tokens")
    security_engineers: tuple[WorkloadId, ...] = Field(default=(), description="may see which policy bundle is active")


class PolicySection(DocumentModel):
    """The policy bundle."""

    directory: Path = Field(description="the bundle's directory")


class LedgerSection(DocumentModel):
    """The record."""

    directory: Path = Field(description="directory of the ledger; made at first start")
    origin: Origin = Field(description="the log's name in checkpoints, never to be reused for another ledger")
    checkpoint_key: Path = Field(description="PEM Ed25519 key that signs checkpoints, readable by its owner only")
    max_queued: int = Field(default=4096, ge=1, le=1_000_000, description="records that may wait for the disk")
    append_deadline: Annotated[Duration, within("10ms", "60s")] = Field(
        default=timedelta(seconds=2), description="longest wait for a record to be durable"
    )


class TokenSection(DocumentModel):
    """Tokens for permitted calls."""

    issuer: IssuerUrl = Field(description="`iss` of the tokens, an https URL")
    signing_key: Path = Field(description="PEM P-256 key that signs tokens, readable by its owner only")
    published_keys: Path | None = Field(
        default=None, description="directory of further public keys for the JWKS: the previous and the next one"
    )
    ttl: Annotated[Duration, within("2s", "300s")] = Field(
        default=timedelta(seconds=120), description="lifetime of a token; shorter when what it depends on ends before"
    )


class TasksSection(DocumentModel):
    """Lifetimes of tasks."""

    default_ttl: Annotated[Duration, within("1s", "30d")] = Field(
        default=timedelta(minutes=30), description="lifetime of a task when the caller asks for none"
    )
    max_ttl: Annotated[Duration, within("1s", "30d")] = Field(
        default=timedelta(hours=8), description="longest lifetime of a task"
    )


class OutcomesSection(DocumentModel):
    """What permitted calls owe: a report of what came of them."""

    grace: Annotated[Duration, within("1s", "1d")] = Field(
        default=timedelta(minutes=5), description="how long after its token ended a call's outcome may still come"
    )
    receipt_keys: Mapping[WorkloadId, Path] = Field(
        default_factory=dict,
        description="SPIFFE ID of a tool server -> JWK Set of keys for its receipts, beside its SVID's",
    )


class RevocationSection(DocumentModel):
    """The revocation feed."""

    heartbeat: Annotated[Duration, within("100ms", "4s")] = Field(
        default=timedelta(seconds=1), description="longest silence of the feed; tool servers take 5 s for stale"
    )


class LimitsSection(DocumentModel):
    """Bounds on what callers can send; beyond them they get an error and the sidecar keeps its memory."""

    max_concurrent_rpcs: int = Field(default=256, ge=1, le=65536, description="RPCs in progress")
    max_stream_inflight: int = Field(default=64, ge=1, le=65536, description="unanswered requests of one stream")
    max_message_bytes: int = Field(default=262_144, ge=1024, le=4_194_304, description="one received message")
    max_arguments_bytes: int = Field(default=65_536, ge=2, le=1_048_576, description="one call's arguments")
    max_connection_age: Annotated[Duration, within("10s", "1d")] = Field(
        default=timedelta(minutes=5), description="age at which a connection is closed, so that TLS is negotiated anew"
    )


class LogSection(DocumentModel):
    """Operational log on standard error. It is never the record."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="least severity written")
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto` is `console` on a terminal, else `json`"
    )


class TelemetrySection(DocumentModel):
    """Export of traces."""

    otlp_endpoint: CollectorUrl | None = Field(default=None, description="OTLP gRPC receiver; none: no traces")
