"""Making a development trust domain with a sidecar's files. FOR DEVELOPMENT: every key lies in one directory.

Everything that exists is checked before anything is written, and every piece appears whole or not at all, so a run
that was interrupted is continued by the next. Nothing is ever overwritten, except SVIDs by `renew`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from authz_sidecar.cli import workload as workloads
from authz_sidecar.cli.development_keys import (
    CheckpointKey,
    create_token_key,
    require_private,
    token_key_conflict,
)
from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import CommandFailed
from authz_sidecar.cli.staging import content_of, create_public_tree, staged_directory, tree_of
from authz_sidecar.cli.starter import starter_policies
from authz_sidecar.cli.starter_config import log_origin, starter_config
from authz_sidecar.cli.workload import Workload
from authz_sidecar.cli.workspace import AUTHORITY_KEYS, BUNDLE, PRIVATE_KEY, Workspace
from authz_sidecar.errors import OperatorError
from authz_sidecar.files import create_exclusive
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.spiffe_id import TrustDomain


@dataclass(slots=True)
class Report:
    """What a run did, as paths below the workspace.

    Attributes:
        created: did not exist before.
        renewed: SVIDs that were issued again.
        kept: the operator's own by now: they differ from what `init` would write, and stay as they are.
        expired: SVIDs that are no longer valid.
    """

    created: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One file or directory: `conflict` says what is wrong with what exists, `create` makes it."""

    path: Path
    conflict: Callable[[], str | None]
    create: Callable[[], None]


def initialise(
    workspace: Workspace,
    *,
    trust_domain: TrustDomain,
    agents: Iterable[str],
    services: Iterable[str],
    now: datetime,
) -> Report:
    """Make what is missing.

    Raises:
        CommandFailed: something exists that differs from what would be made; every such thing is named, nothing was
            written.
        Unsafe: a key can be read by others.
        Unusable: a name that is not a DNS label, or that is used twice.
        OperatorError: an existing authority or SVID is damaged.
    """
    wanted = workloads.distinct(
        (
            *workloads.standard(trust_domain),
            *(workloads.agent(trust_domain, name) for name in agents),
            *(workloads.service(trust_domain, name) for name in services),
        )
    )
    return _Initialisation(workspace, trust_domain, now).run(wanted)


def renew(workspace: Workspace, *, now: datetime) -> Report:
    """Issue every SVID of the workspace again, for the same workload. Raises OperatorError; then none was replaced."""
    authority = DevAuthority.load(workspace.authority)
    found = [
        (path, workloads.workload_of(path.name, workloads.read_svid(path)))
        for path in workloads.directories(workspace.svids)
    ]
    for path, workload in found:
        if workload.spiffe_id.trust_domain != authority.trust_domain:
            raise OperatorError(f"`{path}` is an svid of `{workload.spiffe_id.trust_domain}`; remove it")
    for path, workload in found:
        workloads.issue(authority, workload, path, now)
    return Report(renewed=[_shown(workspace, path) for path, _ in found])


def existing_trust_domain(workspace: Workspace) -> TrustDomain | None:
    """The trust domain of the authority in the workspace; None before the first run. Raises OperatorError."""
    return DevAuthority.load(workspace.authority).trust_domain if workspace.authority.exists() else None


class _Initialisation:
    """One run over one workspace."""

    def __init__(self, workspace: Workspace, trust_domain: TrustDomain, now: datetime) -> None:
        self._workspace = workspace
        self._trust_domain = trust_domain
        self._now = now
        self._begun = workspace.authority.exists()
        self._authority = (
            DevAuthority.load(workspace.authority) if self._begun else DevAuthority.create(trust_domain, now)
        )
        self._report = Report()

    def run(self, wanted: Iterable[Workload]) -> Report:
        pieces = [*self._starter(), *self._trust(), *self._keys(), *(self._svid(workload) for workload in wanted)]
        existing = [piece for piece in pieces if os.path.lexists(piece.path)]
        problems = [f"`{piece.path}` {problem}" for piece in existing if (problem := piece.conflict()) is not None]
        if problems:
            remedy = "init overwrites nothing: move it away or choose another directory"
            message = "\n".join(f"{problem}; {remedy}" for problem in problems)
            raise CommandFailed(message, ExitCode.CHECK_FAILED)
        for piece in pieces:
            if piece not in existing:
                piece.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                piece.create()
                self._report.created.append(_shown(self._workspace, piece.path))
        return self._report

    def _starter(self) -> list[_Piece]:
        space = self._workspace
        policies = starter_policies(str(self._trust_domain))
        config = starter_config(space, self._trust_domain)
        return [
            _Piece(
                space.config,
                lambda: self._operators_own(space.config, content_of(space.config) == config),
                lambda: create_exclusive(space.config, config, public=True),
            ),
            _Piece(
                space.policies,
                lambda: self._operators_own(space.policies, tree_of(space.policies) == policies),
                lambda: create_public_tree(space.policies, policies),
            ),
            _Piece(
                space.run,
                lambda: None if space.run.is_dir() else "is not a directory",
                lambda: space.run.mkdir(mode=0o700),
            ),
        ]

    def _trust(self) -> list[_Piece]:
        path, bundle = self._workspace.trust_bundle, self._authority.bundle_json()
        return [
            _Piece(self._workspace.authority, self._authority_conflict, self._create_authority),
            _Piece(
                path,
                lambda: None if content_of(path) == bundle else "is another authority's bundle",
                lambda: create_exclusive(path, bundle, public=True),
            ),
        ]

    def _keys(self) -> list[_Piece]:
        space = self._workspace
        checkpoint = CheckpointKey(space.checkpoint_key, log_origin(self._trust_domain))
        vkey = space.checkpoint_vkey
        return [
            _Piece(
                space.token_key,
                lambda: token_key_conflict(space.token_key),
                lambda: create_token_key(space.token_key),
            ),
            _Piece(space.checkpoint_key, checkpoint.conflict, checkpoint.create),
            _Piece(vkey, lambda: checkpoint.verifier_conflict(vkey), lambda: checkpoint.create_verifier(vkey)),
        ]

    def _svid(self, workload: Workload) -> _Piece:
        path = self._workspace.svids / workload.name
        return _Piece(path, lambda: self._svid_conflict(path, workload), lambda: self._create_svid(path, workload))

    def _operators_own(self, path: Path, same: bool) -> str | None:
        """Before the first run ended, a foreign file is a conflict; later, an edited one is what a starter is for."""
        if not same and self._begun:
            self._report.kept.append(_shown(self._workspace, path))
        return None if same or self._begun else "exists and differs from what init would write"

    def _authority_conflict(self) -> str | None:
        for name in AUTHORITY_KEYS:
            require_private(self._workspace.authority / name)
        found = self._authority.trust_domain
        return None if found == self._trust_domain else f"is the authority of `{found}`, not of `{self._trust_domain}`"

    def _create_authority(self) -> None:
        with staged_directory(self._workspace.authority) as staged:
            self._authority.save(staged)

    def _svid_conflict(self, path: Path, workload: Workload) -> str | None:
        svid = workloads.read_svid(path)
        require_private(path / PRIVATE_KEY)
        if svid.not_after <= self._now:
            self._report.expired.append(_shown(self._workspace, path))
        if workloads.workload_of(path.name, svid) != workload:
            return f"belongs to `{svid.spiffe_id}`, whose names are not those of `{workload.spiffe_id}`"
        if content_of(path / BUNDLE) != self._authority.ca_pem():
            return "has the bundle of another authority"
        return None

    def _create_svid(self, path: Path, workload: Workload) -> None:
        with staged_directory(path) as staged:
            workloads.issue(self._authority, workload, staged, self._now)


def _shown(workspace: Workspace, path: Path) -> str:
    name = str(path.relative_to(workspace.root))
    return f"{name}/" if path.is_dir() else name
