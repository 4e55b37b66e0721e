"""The manifest of an agent: who answers for it, what it is made of, what it may touch, and who approved that."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from authz_sidecar.documents import DocumentModel
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.policy.data import Name

_TOOL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}/[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

Text = Annotated[str, Field(min_length=1, max_length=400)]


def _workload(text: str) -> str:
    SpiffeId.parse_workload(text)
    return text


def _tool_id(text: str) -> str:
    if not _TOOL_ID.fullmatch(text):
        raise ValueError("expected a tool as `server/name`")
    return text


class ModelVersion(DocumentModel):
    """A model that the agent runs on, pinned."""

    name: Text
    version: Text


class PromptVersion(DocumentModel):
    """A prompt of the agent, pinned by the SHA-256 of its text."""

    name: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CredentialBinding(DocumentModel):
    """An audience for which the agent may get tokens."""

    audience: Text
    purpose: str = ""


class Manifest(DocumentModel):
    """One file `agents/*.yaml`.

    Attributes:
        agent: SPIFFE ID of the workload.
        tools: "server/name"; the most the agent may ever be given.
        groups: agent groups that policies may name.
        boundary: name of the highest data class it may touch.
        environments: where it may run.
        review_by: last day on which the approval counts as reviewed.
        status: `draft` until somebody named in `approved_by` approved it.
    """

    version: Literal[1]
    agent: Annotated[str, AfterValidator(_workload)]
    name: Text
    business_owner: Text
    technical_owner: Text
    approver: Text
    purpose: Text
    models: list[ModelVersion] = Field(min_length=1)
    prompts: list[PromptVersion] = Field(min_length=1)
    tools: list[Annotated[str, AfterValidator(_tool_id)]] = Field(min_length=1, max_length=256)
    groups: list[Name] = Field(default_factory=list)
    boundary: Name
    environments: list[Name] = Field(min_length=1)
    credential_bindings: list[CredentialBinding] = Field(default_factory=list)
    review_by: date
    status: Literal["draft", "approved"]
    approved_by: str = ""
    approved_at: datetime | None = None

    @property
    def approved(self) -> bool:
        return self.status == "approved"

    @property
    def sorted_groups(self) -> list[str]:
        return sorted(set(self.groups))

    def review_overdue(self, now: datetime) -> bool:
        """Whether the review day (UTC) has passed."""
        return now.date() > self.review_by

    @field_validator("approved_at")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.utcoffset() is None:
            raise ValueError("expected a time with a zone, like 2026-01-31T12:00:00Z")
        return value

    @model_validator(mode="after")
    def _approval_is_complete(self) -> Self:
        if self.approved and (not self.approved_by or self.approved_at is None):
            raise ValueError("status `approved` needs `approved_by` and `approved_at`; write `draft` until then")
        if not self.approved and (self.approved_by or self.approved_at is not None):
            raise ValueError("status `draft` must not have `approved_by` or `approved_at`")
        return self
