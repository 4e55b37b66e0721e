"""`doctor` finds what would keep the sidecar from starting or from being safe, and names the remedy."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.ledger.note import Signer
from tests.support import ledger as support


@pytest.fixture
def dev() -> Iterator[Path]:
    """A workspace with a path short enough for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="az-", dir="/tmp"))
    assert CliRunner().invoke(app, ["init", str(directory / "w")]).exit_code == 0
    yield directory / "w"
    shutil.rmtree(directory)


def doctor(dev: Path, *settings: str, output: str = "json") -> Result:
    flags = [flag for setting in ("http.address=127.0.0.1:0", *settings) for flag in ("--set", setting)]
    return CliRunner().invoke(app, ["doctor", "--config", str(dev / "config.yaml"), "-o", output, *flags])


def findings(result: Result, *statuses: str) -> list[tuple[str, str, str]]:
    return [
        (each["check"], each["detail"], each["remedy"])
        for each in json.loads(result.stdout)
        if each["status"] in statuses
    ]


def signer_of(dev: Path) -> Signer:
    key = load_pem_private_key((dev / "keys/checkpoint.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return Signer("example.org/authz-sidecar/dev", key.private_bytes_raw())


def test_a_fresh_workspace_is_healthy_and_stays_as_it_was(dev: Path) -> None:
    before = sorted(dev.rglob("*"))
    result = doctor(dev)
    assert result.exit_code == 0
    assert findings(result, "failed", "unsafe", "note") == []
    checks = [each["check"] for each in json.loads(result.stdout)]
    expected = ["configuration", "identity", "token key", "checkpoint key", "policies", "ledger", "listeners", "http"]
    assert checks == expected
    assert sorted(dev.rglob("*")) == before


def test_people_get_a_table(dev: Path) -> None:
    lines = doctor(dev, output="human").stdout.splitlines()
    assert lines[0].split() == ["check", "status", "detail", "remedy"]
    assert lines[1].split()[:2] == ["configuration", "ok"]


def test_a_wrong_configuration_is_named_and_the_rest_is_looked_at(dev: Path) -> None:
    result = doctor(dev, "policy.directory=/nowhere")
    assert result.exit_code == 1
    failed = findings(result, "failed")
    assert {check for check, _, _ in failed} == {"configuration", "policies"}
    assert "/nowhere" in failed[0][1]
    assert doctor(dev, "nonsense=1").exit_code == 1


def test_an_expired_svid_fails(dev: Path) -> None:
    authority = DevAuthority.load(dev / "authority")
    past = datetime.now(UTC) - timedelta(days=2)
    spiffe_id = SpiffeId.parse_workload("spiffe://example.org/authz-sidecar")
    chain, key = authority.issue_x509_svid(spiffe_id, ttl=timedelta(hours=1), now=past)
    (dev / "svids/sidecar/svid.pem").write_bytes(chain)
    (dev / "svids/sidecar/svid_key.pem").write_bytes(key)
    result = doctor(dev)
    assert result.exit_code == 1
    [(check, detail, remedy)] = findings(result, "failed")
    assert (check, remedy) == ("identity", "issue a new one")
    assert "expired" in detail


def test_an_svid_without_the_name_that_clients_expect_is_noted(dev: Path) -> None:
    for name in ("svid.pem", "svid_key.pem"):
        (dev / "svids/sidecar" / name).write_bytes((dev / "svids/support" / name).read_bytes())
    result = doctor(dev)
    assert result.exit_code == 0
    assert [detail for _, detail, _ in findings(result, "note")] == [
        "the SVID has no DNS name `authz-sidecar`, which clients expect"
    ]


def test_an_svid_that_the_bundle_does_not_vouch_for_fails(dev: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", str(tmp_path / "other")]).exit_code == 0
    shutil.copy(tmp_path / "other/trust/bundle.json", dev / "trust/bundle.json")
    result = doctor(dev)
    assert result.exit_code == 1
    assert [check for check, _, _ in findings(result, "failed")] == ["identity"]


@pytest.mark.parametrize(("name", "check"), [("token", "token key"), ("checkpoint", "checkpoint key")])
def test_a_damaged_key_fails(dev: Path, name: str, check: str) -> None:
    (dev / f"keys/{name}.pem").write_bytes(b"damaged")
    result = doctor(dev)
    assert result.exit_code == 1
    assert [found for found, _, _ in findings(result, "failed")] == [check]


def test_policies_that_do_not_compile_fail_with_their_place(dev: Path) -> None:
    (dev / "policies/rules/crm.cedar").write_text("permit(\n")
    result = doctor(dev)
    assert result.exit_code == 1
    [(check, detail, remedy)] = findings(result, "failed")
    assert check == "policies"
    assert "rules/crm.cedar:" in detail
    assert "policy check" in remedy


@pytest.mark.parametrize("path", ["config.yaml", "policies"])
def test_what_everyone_can_write_is_unsafe(dev: Path, path: str) -> None:
    (dev / path).chmod(0o777 if path == "policies" else 0o666)
    result = doctor(dev)
    assert result.exit_code == 4
    [(_, detail, remedy)] = findings(result, "unsafe")
    assert detail == f"{dev / path} can be written by everyone"
    assert remedy == f"chmod o-w {dev / path}"


async def test_a_ledger_with_a_newest_entry_in_the_future_means_a_wrong_clock(dev: Path) -> None:
    future = datetime.now(UTC) + timedelta(hours=1)
    ledger = support.open_ledger(dev / "ledger", signer=signer_of(dev), now=support.Clock(future))
    await ledger.append(support.task_started("t-1", at=future))
    await ledger.close()
    result = doctor(dev)
    assert result.exit_code == 1
    [(check, detail, remedy)] = findings(result, "failed")
    assert (check, remedy) == ("clock", "correct the clock")
    assert "s behind the newest ledger entry" in detail


async def test_a_ledger_that_another_key_signed_is_unsafe(dev: Path) -> None:
    ledger = support.open_ledger(dev / "ledger")
    await ledger.append(support.task_started("t-1"))
    await ledger.close()
    result = doctor(dev)
    assert result.exit_code == 4
    assert "not signed with our key" in findings(result, "unsafe")[0][1]


def test_a_file_that_is_no_ledger_is_unsafe(dev: Path) -> None:
    (dev / "ledger").mkdir()
    (dev / "ledger/ledger.db").write_bytes(b"not a ledger" * 1000)
    assert doctor(dev).exit_code == 4


def test_an_address_that_something_else_uses_fails(dev: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp:
        unix.bind(str(dev / "run/authz.sock"))
        unix.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        result = doctor(dev, f"http.address=127.0.0.1:{tcp.getsockname()[1]}")
    assert result.exit_code == 1
    assert {check for check, _, _ in findings(result, "failed")} == {"listeners", "http"}


def test_a_socket_file_that_nobody_serves_does_not_matter(dev: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(dev / "run/authz.sock"))
    assert doctor(dev).exit_code == 0
