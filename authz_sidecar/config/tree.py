"""The whole configuration: a frozen, validated tree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from authz_sidecar.config.sections import (
    AccessSection,
    EnvironmentSection,
    HttpSection,
    IdentitySection,
    LedgerSection,
    LimitsSection,
    ListenerSection,
    LogSection,
    OutcomesSection,
    PolicySection,
    RevocationSection,
    TasksSection,
    TelemetrySection,
    TokenSection,
)
from authz_sidecar.config.values import Domain, UnixAddress
from authz_sidecar.documents import DocumentModel
from authz_sidecar.strictjson import Json

T = TypeVar("T")


class Tree(DocumentModel):
    """The keys of the configuration file."""

    profile: Literal["dev", "production"] = Field(
        default="production", description="`dev` for what `init` makes; refused where production systems are touched"
    )
    trust_domain: Domain = Field(description="the sidecar's own trust domain")
    environment: EnvironmentSection
    identity: IdentitySection
    listeners: tuple[ListenerSection, ...]
    http: HttpSection = Field(default_factory=HttpSection)
    access: AccessSection = Field(default_factory=AccessSection)
    policy: PolicySection
    ledger: LedgerSection
    token: TokenSection
    tasks: TasksSection = Field(default_factory=TasksSection)
    outcomes: OutcomesSection = Field(default_factory=OutcomesSection)
    revocation: RevocationSection = Field(default_factory=RevocationSection)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    log: LogSection = Field(default_factory=LogSection)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)

    def shown(self) -> dict[str, Json]:
        """The effective values as JSON, spelled as in the file. Holds paths of keys, never keys."""
        shown: dict[str, Json] = self.model_dump(mode="json")
        return shown


def rebased(value: T, base: Path) -> T:
    """A copy in which every relative path, also a socket's, starts at `base`."""
    return _rebased(value, base)  # type: ignore[no-any-return]


def _rebased(value: Any, base: Path) -> Any:
    if isinstance(value, Path):
        return base / value
    if isinstance(value, UnixAddress):
        return UnixAddress(base / value.path)
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: _rebased(part, base) for name, part in value})
    if isinstance(value, tuple):
        return tuple(_rebased(part, base) for part in value)
    if isinstance(value, Mapping):
        return {key: _rebased(part, base) for key, part in value.items()}
    return value
