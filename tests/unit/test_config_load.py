from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from authz_sidecar.config import Config, config_reference
from authz_sidecar.config.values import TcpAddress, UnixAddress, format_duration, parse_duration
from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain
from tests.support.config import PRODUCTION, write_config, write_named_files


def load(directory: Path, *overrides: str, environment: dict[str, str] | None = None) -> Config:
    return Config.load(write_config(directory), environment or {}, overrides, check_paths=False)


def test_values_arrive_as_domain_types_with_absolute_paths(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.trust_domain == TrustDomain("example.org")
    assert config.identity.bundles == {TrustDomain("example.org"): tmp_path / "bundle.pem"}
    assert config.identity.svid is not None
    assert config.identity.svid.private_key == tmp_path / "svid.key"
    assert config.listeners[0].address == UnixAddress(tmp_path / "run" / "authz.sock")
    assert config.http.address == TcpAddress("127.0.0.1", 9180)
    assert config.access.operators == (SpiffeId.parse("spiffe://example.org/ops"),)
    assert config.tasks.max_ttl == timedelta(hours=8)
    assert config.token.ttl == timedelta(seconds=120)


def test_paths_start_at_the_file_and_not_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    write_config(tmp_path / "etc")
    monkeypatch.chdir(tmp_path)
    config = Config.load(Path("etc/authz.yaml"), {}, check_paths=False)
    assert config.policy.directory == tmp_path / "etc" / "policies"


def test_loaded_configuration_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(tmp_path).token.ttl = timedelta(days=1)  # type: ignore[misc]


def test_a_flag_overrides_the_environment_which_overrides_the_file(tmp_path: Path) -> None:
    environment = {"AUTHZ_SIDECAR_HTTP__ADDRESS": "127.0.0.1:1", "AUTHZ_SIDECAR_TOKEN__TTL": "60s"}
    config = load(tmp_path, "http.address=127.0.0.1:2", environment=environment)
    assert config.http.address.port == 2
    assert config.token.ttl == timedelta(seconds=60)
    assert config.log.level == "info"


def test_the_later_of_two_flags_wins(tmp_path: Path) -> None:
    assert load(tmp_path, "log.level=error", "log.level=debug").log.level == "debug"


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("http.allow_remote=true", ("http", "allow_remote"), True),
        ("ledger.max_queued=17", ("ledger", "max_queued"), 17),
        # A name made of digits stays a name: the key's type decides, not the look of the text.
        ("environment.name=007", ("environment", "name"), "007"),
        ("telemetry.otlp_endpoint=http://127.0.0.1:4317", ("telemetry", "otlp_endpoint"), "http://127.0.0.1:4317"),
        ("telemetry.otlp_endpoint=", ("telemetry", "otlp_endpoint"), None),
        (
            "access.auditors=[spiffe://example.org/a, spiffe://example.org/b]",
            ("access", "auditors"),
            ["spiffe://example.org/a", "spiffe://example.org/b"],
        ),
        (
            'listeners=[{address: "[::1]:0", auth: mtls}]',
            ("listeners",),
            [{"address": "[::1]:0", "auth": "mtls"}],
        ),
    ],
)
def test_the_type_of_the_key_decides_how_text_is_read(
    tmp_path: Path, override: str, key: tuple[str, ...], expected: object
) -> None:
    shown: object = load(tmp_path, override).shown()
    for part in key:
        assert isinstance(shown, dict)
        shown = shown[part]
    assert shown == expected


def test_a_required_key_may_come_from_the_environment_alone(tmp_path: Path) -> None:
    write_config(tmp_path, PRODUCTION.replace("  issuer: https://authz.example.org\n", ""))
    environment = {"AUTHZ_SIDECAR_TOKEN__ISSUER": "https://other.example.org"}
    config = Config.load(tmp_path / "authz.yaml", environment, check_paths=False)
    assert config.token.issuer == "https://other.example.org"


def test_variables_of_the_command_line_and_of_kubernetes_services_are_no_keys(tmp_path: Path) -> None:
    others = {
        "AUTHZ_SIDECAR_CONFIG": "/elsewhere.yaml",
        "AUTHZ_SIDECAR_TARGET": "unix:/run/x",
        "AUTHZ_SIDECAR_SERVICE_HOST": "10.0.0.1",
        "AUTHZ_SIDECAR_SERVICE_PORT_HTTP": "9180",
        "AUTHZ_SIDECAR_PORT_9180_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }
    assert load(tmp_path, environment=others) == load(tmp_path)


def test_what_is_shown_loads_to_the_same_configuration(tmp_path: Path) -> None:
    import yaml

    config = load(tmp_path, "http.address=[::1]:8080", "ledger.append_deadline=1500ms")
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.shown()))
    assert Config.load(again, {}, check_paths=False) == config


def test_every_path_of_a_usable_configuration_passes(tmp_path: Path) -> None:
    write_named_files(tmp_path)
    assert Config.load(write_config(tmp_path), {}).ledger.directory == tmp_path / "ledger"


def test_the_reference_lists_every_key_once_with_a_description() -> None:
    keys = {key.name: key for key in config_reference()}
    assert len(keys) == len(config_reference())
    assert [name for name, key in keys.items() if not key.description] == []
    assert keys["token.ttl"].default == "2m"
    assert keys["http.address"].default == "127.0.0.1:9180"
    assert keys["listeners[].auth"].required
    assert keys["identity.svid.private_key"].required


def test_defaults_obey_their_own_bounds(tmp_path: Path) -> None:
    tried = []
    for key in config_reference():
        section, _, _ = key.name.rpartition(".")
        if not key.required and key.default is not None and section in ("token", "tasks", "limits", "ledger", "http"):
            flag = str(key.default).lower() if isinstance(key.default, bool) else key.default
            tried.append(key.name)
            load(tmp_path, f"{key.name}={flag}")
    assert "token.ttl" in tried


@pytest.mark.parametrize("text", ["0s", "1ms", "999ms", "59s", "1m", "90s", "61m", "1h", "25h", "1d", "400d"])
def test_durations_survive_a_round_trip_in_meaning(text: str) -> None:
    assert parse_duration(format_duration(parse_duration(text))) == parse_duration(text)
    assert format_duration(parse_duration(text)) == text


@pytest.mark.parametrize("text", ["", "1", "s", "-1s", "+1s", "01s", "1.5s", "1s ", " 1s", "1S", "1h30m", "1w", "٣s"])
def test_durations_have_one_spelling(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration like"):
        parse_duration(text)
