"""The workloads of a development trust domain: their names, their SPIFFE IDs and the directories with their SVIDs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from authz_sidecar.cli.failure import Unusable
from authz_sidecar.cli.workspace import BUNDLE, CERTIFICATE, PRIVATE_KEY
from authz_sidecar.errors import OperatorError
from authz_sidecar.files import write_private, write_public
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.certificate import extension
from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain
from authz_sidecar.identity.x509_svid import MalformedSvid, X509Svid, parse_x509_svid

SVID_TTL = timedelta(days=30)

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A workload that gets an SVID.

    Attributes:
        name: of its directory: a DNS label.
        spiffe_id: its identity.
        dns_names: under which gRPC and HTTPS clients reach it; empty for a workload that only calls.
    """

    name: str
    spiffe_id: SpiffeId
    dns_names: tuple[str, ...] = ()


def agent(trust_domain: TrustDomain, name: str) -> Workload:
    """An agent. Raises Unusable for a name that is not a DNS label."""
    return Workload(name=_checked("--agent", name), spiffe_id=SpiffeId(trust_domain, f"/agent/{name}"))


def service(trust_domain: TrustDomain, name: str) -> Workload:
    """A tool server, reachable as `name` and as `localhost`. Raises Unusable for a name that is not a DNS label."""
    spiffe_id = SpiffeId(trust_domain, f"/tools/{_checked('--service', name)}")
    return Workload(name=name, spiffe_id=spiffe_id, dns_names=(name, "localhost"))


def standard(trust_domain: TrustDomain) -> tuple[Workload, ...]:
    """What the starter configuration and policies speak of."""
    sidecar = Workload(
        name="sidecar",
        spiffe_id=SpiffeId(trust_domain, "/authz-sidecar"),
        dns_names=("authz-sidecar", "localhost"),
    )
    operator = Workload(name="operator", spiffe_id=SpiffeId(trust_domain, "/platform/operator"))
    return (
        sidecar,
        agent(trust_domain, "support"),
        agent(trust_domain, "analyst"),
        service(trust_domain, "crm"),
        operator,
    )


def distinct(workloads: Iterable[Workload]) -> tuple[Workload, ...]:
    """Each workload once. Raises Unusable when one name stands for two identities."""
    by_name: dict[str, Workload] = {}
    for workload in workloads:
        if by_name.setdefault(workload.name, workload) != workload:
            other = by_name[workload.name].spiffe_id
            raise Unusable(f"`{workload.name}` would be both `{other}` and `{workload.spiffe_id}`; choose another name")
    return tuple(by_name.values())


def issue(authority: DevAuthority, workload: Workload, directory: Path, now: datetime) -> None:
    """Write key, certificate and trust bundle of a new SVID into an existing directory, over what is there."""
    chain, key = authority.issue_x509_svid(workload.spiffe_id, dns_names=workload.dns_names, ttl=SVID_TTL, now=now)
    # A reader between the two writes sees a key of another certificate, keeps what it has and reads again.
    write_private(directory / PRIVATE_KEY, key)
    write_public(directory / CERTIFICATE, chain)
    write_public(directory / BUNDLE, authority.ca_pem())


def read_svid(directory: Path) -> X509Svid:
    """The SVID in a workload's directory, its time not checked. Raises OperatorError naming the directory."""
    try:
        return parse_x509_svid((directory / CERTIFICATE).read_bytes(), (directory / PRIVATE_KEY).read_bytes())
    except OSError as error:
        raise OperatorError(f"can not read `{error.filename}`: {error.strerror}; remove `{directory}`") from None
    except MalformedSvid as error:
        raise OperatorError(f"`{directory}` holds no x509-svid: {error}; remove it and run init again") from None


def workload_of(name: str, svid: X509Svid) -> Workload:
    """The workload that an SVID was issued to, so that the next one says the same."""
    names = extension(svid.leaf, x509.SubjectAlternativeName)
    dns_names = names.value.get_values_for_type(x509.DNSName) if names is not None else []
    return Workload(name=name, spiffe_id=svid.spiffe_id, dns_names=tuple(dns_names))


def directories(svids: Path) -> Iterator[Path]:
    """The workloads' directories, by name. Names that start with a dot are left-overs of an interrupted run."""
    if svids.is_dir():
        yield from sorted(path for path in svids.iterdir() if path.is_dir() and not path.name.startswith("."))


def _checked(option: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Unusable(
            f"`{option} {name[:64]}`: expected lower-case letters, digits and inner hyphens, at most 63 of them"
        )
    return name
