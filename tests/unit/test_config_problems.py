"""One change to a valid file, and the whole of what the operator then reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from authz_sidecar.config import Config
from authz_sidecar.documents import DocumentError
from tests.support.config import PRODUCTION, write_config, write_named_files


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    replace: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    want: tuple[str, ...]


CASES = (
    Case(
        name="unknown key names the nearest",
        replace={"http: {address:": "http: {adress:"},
        want=("authz.yaml:10:8: `http.adress`: unknown key (did you mean `address`?)",),
    ),
    Case(
        name="all problems at once, in file order",
        replace={"name: prod,": "name: -,", "level: info": "level: loud", "issuer: https": "issuer: http"},
        want=(
            "authz.yaml:3:21: `environment.name`: expected 1 to 64 letters, digits, `.`, `_` or `-`, starting with a "
            "letter or a digit",
            "authz.yaml:19:11: `token.issuer`: expected an `https://` URL without query and fragment (RFC 8414 "
            "section 2)",
            "authz.yaml:23:14: `log.level`: input should be 'debug', 'info', 'warning' or 'error', got `loud`",
        ),
    ),
    Case(
        name="missing key",
        replace={"  origin: example.org/authz/agent\n": ""},
        want=("authz.yaml:15:3: `ledger.origin`: required, but missing",),
    ),
    Case(
        name="duration without unit",
        replace={"default_ttl: 30m": "default_ttl: 30"},
        want=("authz.yaml:21:22: `tasks.default_ttl`: expected text, got int; put it in quotes",),
    ),
    Case(
        name="duration out of bounds",
        flags=("token.ttl=10m",),
        want=("--set token.ttl: `token.ttl`: expected a duration from 2s to 300s, got 10m",),
    ),
    Case(
        name="root path is no workload",
        replace={"[spiffe://example.org/ops]": "[spiffe://example.org]"},
        want=(
            "authz.yaml:12:15: `access.operators[0]`: `spiffe://example.org` has no path: it names a trust domain, "
            "not a workload",
        ),
    ),
    Case(
        name="role from an unknown trust domain",
        replace={"[spiffe://example.org/ops]": "[spiffe://elsewhere.org/ops]"},
        want=(
            "authz.yaml:12:15: `access.operators[0]`: no bundle of trust domain `elsewhere.org` in "
            "`identity.bundles`: it could never sign in",
        ),
    ),
    Case(
        name="own bundle missing",
        replace={"bundles: {example.org:": "bundles: {other.org:"},
        want=("authz.yaml:6:12: `identity.bundles`: no bundle of the sidecar's own trust domain `example.org`",),
    ),
    Case(
        name="bearer credentials on TCP",
        replace={'{address: "unix:run/authz.sock", auth: mtls}': '{address: "127.0.0.1:9000", auth: jwt-svid}'},
        want=(
            "authz.yaml:9:39: `listeners[0].auth`: `jwt-svid` sends bearer credentials, and 127.0.0.1:9000 is not a "
            "Unix socket; use `mtls`",
        ),
    ),
    Case(
        name="no authentication is not an option",
        replace={"auth: mtls": "auth: none"},
        want=("authz.yaml:9:44: `listeners[0].auth`: input should be 'mtls' or 'jwt-svid', got `none`",),
    ),
    Case(
        name="jwt-svid without audience",
        replace={"auth: mtls": "auth: jwt-svid", "  jwt_audience: spiffe://example.org/authz\n": ""},
        want=(
            "authz.yaml:5:3: `identity.jwt_audience`: required by the `jwt-svid` listener; use a name that no other "
            "sidecar has, like its SPIFFE ID",
        ),
    ),
    Case(
        name="socket path too long",
        replace={"unix:run/authz.sock": "unix:/" + "a" * 107},
        want=(
            "authz.yaml:9:15: `listeners[0].address`: 108 bytes of path; a Unix socket has room for 107: shorten it",
        ),
    ),
    Case(
        name="no listener",
        replace={'listeners:\n  - {address: "unix:run/authz.sock", auth: mtls}': "listeners: []"},
        want=(
            "authz.yaml:8:12: `listeners`: no listener; agents reach the sidecar by one, like "
            "`unix:/run/authz/authz.sock`",
        ),
    ),
    Case(
        name="same listener twice",
        flags=('listeners=[{address: "unix:/a", auth: mtls}, {address: "unix:///a", auth: mtls}]',),
        want=("--set listeners: `listeners[1].address`: listed twice",),
    ),
    Case(
        name="remote health port by accident",
        replace={"127.0.0.1:9180": "0.0.0.0:9180"},
        want=(
            "authz.yaml:10:17: `http.address`: 0.0.0.0:9180 is reachable from other machines; set "
            "`http.allow_remote: true` when that is meant",
        ),
    ),
    Case(
        name="a host name is taken for remote",
        environment={"AUTHZ_SIDECAR_HTTP__ADDRESS": "sidecar.internal:9180"},
        want=(
            "environment AUTHZ_SIDECAR_HTTP__ADDRESS: `http.address`: sidecar.internal:9180 is reachable from other "
            "machines; set `http.allow_remote: true` when that is meant",
        ),
    ),
    Case(
        name="port with a leading zero",
        flags=("http.address=127.0.0.1:080",),
        want=("--set http.address: `http.address`: expected a port from 0 to 65535 after the last `:`, got `080`",),
    ),
    Case(
        name="IPv6 without brackets",
        flags=("http.address=::1:80",),
        want=(
            "--set http.address: `http.address`: expected a host name or an IP address (IPv6 in brackets) before the "
            "port, got `::1`",
        ),
    ),
    Case(
        name="development profile in production",
        replace={"profile: production": "profile: dev"},
        want=(
            "authz.yaml:3:39: `environment.production`: the `dev` profile must not touch production; set `profile: "
            "production` or `production: false`",
        ),
    ),
    Case(
        name="no identity",
        replace={"  svid: {certificate: svid.pem, private_key: svid.key}\n": ""},
        want=("authz.yaml:5:3: `identity.svid`: required, but missing",),
    ),
    Case(
        name="default lifetime beyond the longest",
        flags=("tasks.max_ttl=10m",),
        want=("authz.yaml:21:22: `tasks.default_ttl`: 30m is longer than `tasks.max_ttl`, 10m",),
    ),
    Case(
        name="token lifetime in fractions",
        flags=("token.ttl=2500ms",),
        want=("--set token.ttl: `token.ttl`: expected whole seconds: tokens count in seconds",),
    ),
    Case(
        name="arguments as large as a message",
        flags=("limits.max_message_bytes=65536",),
        want=(
            "authz.yaml:22:31: `limits.max_arguments_bytes`: expected less than `limits.max_message_bytes`, 65536: a "
            "message holds the arguments and more",
        ),
    ),
    Case(
        name="one key for two uses",
        flags=("token.signing_key=checkpoint.pem",),
        want=("--set token.signing_key: `token.signing_key`: also `ledger.checkpoint_key`; each key has one use",),
    ),
    Case(
        name="checkpoint origin with a space",
        flags=("ledger.origin=my ledger",),
        want=(
            "--set ledger.origin: `ledger.origin`: expected a name like `example.org/authz-sidecar/agent`: at most "
            "255 characters, no space, no `+`",
        ),
    ),
    Case(
        name="unknown variable",
        environment={"AUTHZ_SIDECAR_HTPP__ADDRESS": "127.0.0.1:1", "AUTHZ_SIDECAR_HTTP__ADRESS": "127.0.0.1:1"},
        want=(
            "environment AUTHZ_SIDECAR_HTPP__ADDRESS: unknown key `htpp` (did you mean `http`?)",
            "environment AUTHZ_SIDECAR_HTTP__ADRESS: unknown key `http.adress` (did you mean `address`?)",
        ),
    ),
    Case(
        name="a section as a whole",
        flags=("log=debug",),
        want=("--set log: `log` is a section; set one of its keys: `level`, `format`",),
    ),
    Case(
        name="a key below a value",
        flags=("identity.bundles.example.org=b.pem",),
        want=(
            "--set identity.bundles.example.org: `identity.bundles` has no keys of its own to set; set it as a whole",
        ),
    ),
    Case(
        name="text where the key takes a number or a boolean",
        flags=("ledger.max_queued=many", "http.allow_remote=yes"),
        want=(
            "--set ledger.max_queued: expected a whole number, got `many`",
            "--set http.allow_remote: expected `true` or `false`, got `yes`",
        ),
    ),
    Case(
        name="a list that is no YAML",
        environment={"AUTHZ_SIDECAR_ACCESS__AUDITORS": "[a"},
        want=(
            "environment AUTHZ_SIDECAR_ACCESS__AUDITORS: not YAML: while parsing a flow sequence, expected ',' or "
            "']', but got '<stream end>'",
        ),
    ),
    Case(
        name="bytes that are no text",
        environment={"AUTHZ_SIDECAR_POLICY__DIRECTORY": "/etc/\udcff"},
        want=("environment AUTHZ_SIDECAR_POLICY__DIRECTORY: not UTF-8 text",),
    ),
    Case(
        name="a flag without value",
        flags=("log.level",),
        want=("--set log.level: expected `key.key=value`",),
    ),
    Case(
        name="a value where the file has a section",
        replace={"log: {level: info}": "log: debug"},
        flags=("log.format=json",),
        want=("authz.yaml:23:6: `log`: input should be an object",),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_operator_reads_where_what_and_the_remedy(tmp_path: Path, case: Case) -> None:
    text = PRODUCTION
    for old, new in case.replace.items():
        assert old in text
        text = text.replace(old, new)
    path = write_config(tmp_path, text)
    with pytest.raises(DocumentError) as caught:
        Config.load(path, case.environment, case.flags, check_paths=False)
    assert [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems] == list(case.want)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        Config.load(tmp_path / "none.yaml", {})
    assert str(caught.value) == f"{tmp_path}/none.yaml: cannot read the configuration: No such file or directory"


def path_problems(directory: Path, *flags: str, text: str = PRODUCTION) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        Config.load(write_config(directory, text), {}, flags)
    return [str(problem).replace(f"{directory}/", "") for problem in caught.value.problems]


def test_every_missing_path_is_reported_with_its_remedy(tmp_path: Path) -> None:
    remedy = "create it, or correct the path (relative ones start at the configuration file)"
    # The start makes the socket's own directory, and nothing above it.
    text = PRODUCTION.replace("unix:run/authz.sock", "unix:run/own/authz.sock")
    assert path_problems(tmp_path, text=text) == [
        f"authz.yaml:5:23: `identity.svid.certificate`: svid.pem: no such file; {remedy}",
        f"authz.yaml:5:46: `identity.svid.private_key`: svid.key: no such file; {remedy}",
        f"authz.yaml:6:26: `identity.bundles.example.org`: bundle.pem: no such file; {remedy}",
        "authz.yaml:9:15: `listeners[0].address`: run/own/authz.sock: no directory run/own; create it, owned by this user with "
        "mode 0700 or 0750",
        f"authz.yaml:13:21: `policy.directory`: policies: no such directory; {remedy}",
        f"authz.yaml:17:19: `ledger.checkpoint_key`: checkpoint.pem: no such file; {remedy}",
        f"authz.yaml:20:16: `token.signing_key`: token.pem: no such file; {remedy}",
    ]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    write_named_files(tmp_path)
    (tmp_path / "token.pem").chmod(mode)
    assert path_problems(tmp_path) == [
        f"authz.yaml:20:16: `token.signing_key`: token.pem: a private key that others can read (mode {mode:04o}); "
        "chmod 600"
    ]


def test_a_path_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    write_named_files(tmp_path)
    (tmp_path / "run" / "authz.sock").touch()
    (tmp_path / "ledger").touch()
    (tmp_path / "token.pem").unlink()
    (tmp_path / "token.pem").mkdir()
    assert path_problems(tmp_path, "policy.directory=bundle.pem", "token.published_keys=svid.pem") == [
        "--set policy.directory: `policy.directory`: bundle.pem: not a directory",
        "--set token.published_keys: `token.published_keys`: svid.pem: not a directory",
        "authz.yaml:9:15: `listeners[0].address`: run/authz.sock: exists and is not a socket; remove it or choose "
        "another path",
        "authz.yaml:15:14: `ledger.directory`: ledger: not a directory",
        "authz.yaml:20:16: `token.signing_key`: token.pem: not a regular file",
    ]
