"""Commands that call a sidecar: as whom, where, and one clear line when that does not work."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app

CALLS = [
    ["task", "show", "t-1"],
    ["task", "complete", "t-1"],
    ["task", "start", "--purpose", "p", "--tool", "crm/read_contact", "--ceiling", "internal"],
    ["token", "introspect", "a.b.c"],
    ["token", "jwks"],
    ["policy", "status"],
]


@pytest.fixture(scope="module")
def dev() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="az-", dir="/tmp"))
    assert run("init", str(directory / "w")).exit_code == 0
    yield directory / "w"
    shutil.rmtree(directory)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environment)


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_nobody_there_is_unreachable_in_one_line(dev: Path, call: list[str]) -> None:
    result = run(*call, "--config", str(dev / "config.yaml"), "--as", "operator", "--timeout", "5")
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert f"no sidecar answers at unix:{dev}/run/authz.sock" in result.stderr
    assert "authz-sidecar serve" in result.stderr


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_nobody_to_call_as_is_a_usage_error(dev: Path, call: list[str]) -> None:
    result = run(*call, "--config", str(dev / "config.yaml"))
    assert result.exit_code == 2
    assert "--as NAME" in result.stderr


def test_an_unknown_workload_says_how_to_make_it(dev: Path) -> None:
    result = run("task", "show", "t", "--config", str(dev / "config.yaml"), "--as", "billing")
    assert result.exit_code == 3
    assert f"authz-sidecar init {dev} --agent billing" in result.stderr


@pytest.mark.parametrize("name", ["../authority", "/etc", "", "."])
def test_a_workload_is_a_name_and_not_a_path(dev: Path, name: str) -> None:
    assert run("task", "show", "t", "--config", str(dev / "config.yaml"), "--as", name).exit_code in (2, 3)


def test_certificate_key_and_bundle_go_together(dev: Path) -> None:
    result = run("task", "show", "t", "--svid", str(dev / "svids/support/svid.pem"))
    assert result.exit_code == 2
    assert "go together" in result.stderr


def test_files_and_target_need_no_configuration(dev: Path, tmp_path: Path) -> None:
    svid = dev / "svids/support"
    files = [
        "--svid",
        str(svid / "svid.pem"),
        "--key",
        str(svid / "svid_key.pem"),
        "--bundle",
        str(svid / "bundle.pem"),
    ]
    absent = ["--config", str(tmp_path / "absent.yaml")]
    target = f"unix:{tmp_path}/s.sock"
    result = run("task", "show", "t", *files, *absent, AUTHZ_SIDECAR_TARGET=target)
    assert f"no sidecar answers at {target}" in result.stderr
    missing = run("task", "show", "t", *files[:-1], str(tmp_path / "gone.pem"), *absent, "--target", target)
    assert missing.exit_code == 3
    assert "gone.pem: no such file" in missing.stderr


@pytest.mark.parametrize("initiator", ["alice", "robot:x", "human:", ":x"])
def test_an_initiator_has_a_kind_and_an_id(dev: Path, initiator: str) -> None:
    call = [*CALLS[2], "--config", str(dev / "config.yaml"), "--as", "support", "--initiator", initiator]
    result = run(*call)
    assert result.exit_code == 2
    assert "human:ID or workflow:ID" in result.stderr
