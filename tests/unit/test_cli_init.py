"""`init` makes a development trust domain once, and destroys nothing."""

from __future__ import annotations

import json
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from authz_sidecar.cli.application import app
from authz_sidecar.cli.starter import starter_policies
from authz_sidecar.config import Config
from authz_sidecar.identity.authority import DevAuthority
from authz_sidecar.identity.bundle import BundleSet, parse_bundle
from authz_sidecar.identity.spiffe_id import SpiffeId, TrustDomain
from authz_sidecar.identity.x509_svid import X509SvidVerifier
from authz_sidecar.ledger.note import VerifierKey
from authz_sidecar.token.keys import SigningKey

PRIVATE = {
    "authority/ca-key.pem",
    "authority/jwt-key.pem",
    "authority/ca.pem",
    "keys/token.pem",
    "keys/checkpoint.pem",
    "svids/sidecar/svid_key.pem",
    "svids/support/svid_key.pem",
    "svids/analyst/svid_key.pem",
    "svids/crm/svid_key.pem",
    "svids/operator/svid_key.pem",
}
PUBLIC = {
    "config.yaml",
    "trust/bundle.json",
    "keys/checkpoint.vkey",
    *(
        f"svids/{name}/{file}"
        for name in ("sidecar", "support", "analyst", "crm", "operator")
        for file in ("svid.pem", "bundle.pem")
    ),
}
SPIFFE_IDS = {
    "sidecar": "spiffe://example.org/authz-sidecar",
    "support": "spiffe://example.org/agent/support",
    "analyst": "spiffe://example.org/agent/analyst",
    "crm": "spiffe://example.org/tools/crm",
    "operator": "spiffe://example.org/platform/operator",
}


def init(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["init", str(directory), *arguments])


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def leaf(directory: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((directory / "svids" / name / "svid.pem").read_bytes())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that no test changes."""
    directory = tmp_path_factory.mktemp("made") / "dev"
    assert init(directory).exit_code == 0
    return directory


@pytest.fixture
def dev(made: Path, tmp_path: Path) -> Path:
    """A workspace to change."""
    return Path(shutil.copytree(made, tmp_path / "dev"))


def test_it_makes_exactly_these_files_and_no_key_is_readable_by_others(made: Path) -> None:
    policies = {f"policies/{name}" for name in starter_policies("example.org")}
    assert set(contents(made)) == PRIVATE | PUBLIC | policies
    modes = {name: stat.S_IMODE((made / name).stat().st_mode) for name in PRIVATE | PUBLIC}
    assert modes == {name: 0o600 if name in PRIVATE else 0o644 for name in PRIVATE | PUBLIC}
    for directory in ("authority", "keys", "svids", "run"):
        assert stat.S_IMODE((made / directory).stat().st_mode) == 0o700


def test_what_it_makes_is_a_configuration_that_the_sidecar_accepts(made: Path) -> None:
    config = Config.load(made / "config.yaml", {})
    assert config.profile == "dev"
    SigningKey.load(config.token.signing_key)
    vkey = VerifierKey.parse((made / "keys/checkpoint.vkey").read_text().strip())
    assert vkey.name == config.ledger.origin


def test_every_svid_is_vouched_for_by_the_trust_bundle(made: Path) -> None:
    trust_domain = TrustDomain("example.org")
    bundles = BundleSet.of(parse_bundle(trust_domain, (made / "trust/bundle.json").read_bytes()))
    verifier = X509SvidVerifier()
    for name, spiffe_id in SPIFFE_IDS.items():
        pem = (made / "svids" / name / "svid.pem").read_bytes()
        subject = verifier.verify(leaf_pem=pem, intermediates_pem=b"", bundles=bundles, now=datetime.now(UTC))
        assert str(subject.spiffe_id) == spiffe_id


def test_the_sidecar_and_the_tool_server_can_be_reached_by_name(made: Path) -> None:
    def dns_names(name: str) -> list[str]:
        names = leaf(made, name).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return names.value.get_values_for_type(x509.DNSName)

    assert dns_names("sidecar") == ["authz-sidecar", "localhost"]
    assert dns_names("crm") == ["crm", "localhost"]
    assert dns_names("support") == []


def test_a_second_run_changes_nothing_and_says_so(dev: Path) -> None:
    before = contents(dev)
    result = init(dev)
    assert result.exit_code == 0
    assert result.stdout == "Nothing to do: everything is there.\n"
    assert contents(dev) == before


@pytest.mark.parametrize(
    "piece",
    ["config.yaml", "policies", "run", "trust/bundle.json", "keys/token.pem", "svids/support", "keys/checkpoint.vkey"],
)
def test_a_run_makes_again_only_what_is_missing(dev: Path, piece: str) -> None:
    before = contents(dev)
    path = dev / piece
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = init(dev, "-o", "json")
    assert result.exit_code == 0
    assert [created.rstrip("/") for created in json.loads(result.stdout)["created"]] == [piece]
    after = contents(dev)
    assert set(after) == set(before)
    assert {name for name in before if before[name] != after[name]} <= {
        name for name in before if name.startswith(piece)
    }


def test_an_interrupted_first_run_is_continued(made: Path, tmp_path: Path) -> None:
    directory = tmp_path / "dev"
    directory.mkdir()
    shutil.copy(made / "config.yaml", directory)
    shutil.copytree(made / "policies", directory / "policies")
    (directory / ".tmp-left-over").mkdir()
    assert init(directory).exit_code == 0
    assert set(contents(directory)) >= PRIVATE


@pytest.mark.parametrize("name", ["config.yaml", "policies/catalog/tools.yaml"])
def test_an_edited_starter_file_is_the_operators(dev: Path, name: str) -> None:
    edited = (dev / name).read_bytes() + b"# mine\n"
    (dev / name).write_bytes(edited)
    result = init(dev, "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["kept"] == [name if name == "config.yaml" else "policies/"]
    assert (dev / name).read_bytes() == edited


def test_a_policy_that_the_operator_removed_does_not_come_back(dev: Path) -> None:
    removed = next((dev / "policies/rules").iterdir())
    removed.unlink()
    assert init(dev).exit_code == 0
    assert not removed.exists()


@pytest.mark.parametrize(
    "name", ["config.yaml", "policies/catalog/tools.yaml", "keys/token.pem", "keys/checkpoint.vkey"]
)
def test_a_new_directory_with_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"profile: dev\n")
    path.chmod(0o600)
    result = init(tmp_path)
    assert result.exit_code == 1
    assert str(tmp_path / name.removesuffix("/catalog/tools.yaml")) in result.stderr
    assert "init overwrites nothing" in result.stderr
    assert contents(tmp_path) == {name: b"profile: dev\n"}


@pytest.mark.parametrize("name", sorted((PRIVATE | PUBLIC) - {"config.yaml"}))
def test_a_credential_that_is_damaged_is_named_and_never_replaced(dev: Path, name: str) -> None:
    (dev / name).write_bytes(b"damaged\n")
    before = contents(dev)
    result = init(dev, "--agent", "billing")
    assert result.exit_code in (1, 3)
    assert str(dev / name.rpartition("/")[0]) in result.stderr
    assert "Traceback" not in result.output
    assert contents(dev) == before


@pytest.mark.parametrize("name", sorted(PRIVATE - {"authority/ca.pem"}))
def test_a_key_that_others_can_read_is_unsafe(dev: Path, name: str) -> None:
    (dev / name).chmod(0o640)
    result = init(dev)
    assert result.exit_code == 4
    assert f"{dev / name}` has mode 0640" in result.stderr
    assert "chmod 600" in result.stderr


def test_an_svid_of_another_authority_is_refused(dev: Path, tmp_path: Path) -> None:
    assert init(tmp_path / "other").exit_code == 0
    shutil.rmtree(dev / "svids/support")
    shutil.copytree(tmp_path / "other/svids/support", dev / "svids/support")
    result = init(dev)
    assert result.exit_code == 1
    assert "another authority" in result.stderr


def test_renew_issues_the_same_svids_again_and_touches_nothing_else(dev: Path) -> None:
    assert init(dev, "--service", "mail").exit_code == 0
    before = contents(dev)
    certificates = {name: leaf(dev, name) for name in (*SPIFFE_IDS, "mail")}
    result = init(dev, "--renew")
    assert result.exit_code == 0
    after = contents(dev)
    changed = {name for name in before if before[name] != after[name]}
    assert set(after) == set(before)
    assert changed == {f"svids/{name}/{file}" for name in certificates for file in ("svid.pem", "svid_key.pem")}
    for name, old in certificates.items():
        new = leaf(dev, name)
        kind = x509.SubjectAlternativeName
        assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(kind)
        assert new.serial_number != old.serial_number
    assert init(dev).stdout == "Nothing to do: everything is there.\n"


def test_renew_replaces_nothing_when_one_svid_is_damaged(dev: Path) -> None:
    (dev / "svids/support/svid.pem").write_bytes(b"damaged")
    before = contents(dev)
    result = init(dev, "--renew")
    assert result.exit_code == 3
    assert str(dev / "svids/support") in result.stderr
    assert contents(dev) == before


def test_renew_without_an_authority_says_what_to_do(tmp_path: Path) -> None:
    result = init(tmp_path, "--renew")
    assert result.exit_code == 3
    assert str(tmp_path / "authority/ca.pem") in result.stderr
    assert contents(tmp_path) == {}


def test_renew_stands_alone(dev: Path) -> None:
    assert init(dev, "--renew", "--agent", "billing").exit_code == 2


def test_an_expired_svid_is_pointed_out(dev: Path) -> None:
    authority = DevAuthority.load(dev / "authority")
    chain, key = authority.issue_x509_svid(
        SpiffeId.parse_workload(SPIFFE_IDS["support"]),
        ttl=timedelta(hours=1),
        now=datetime.now(UTC) - timedelta(days=2),
    )
    (dev / "svids/support/svid.pem").write_bytes(chain)
    (dev / "svids/support/svid_key.pem").write_bytes(key)
    result = init(dev, "-o", "json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["expired"] == ["svids/support/"]
    assert any("--renew" in step for step in report["next"])


def test_more_agents_and_services_can_be_added_later(dev: Path) -> None:
    result = init(dev, "--agent", "billing", "--agent", "support", "--service", "mail", "-o", "json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["created"] == ["svids/billing/", "svids/mail/"]
    names = leaf(dev, "billing").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org/agent/billing"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agent", "crm"], "would be both"),
        (["--agent", "../escape"], "--agent ../escape"),
        (["--service", "Upper"], "--service Upper"),
        (["--agent", ""], "expected lower-case letters"),
        (["--trust-domain", "UPPER.example"], "--trust-domain"),
        (["--trust-domain", "with space"], "--trust-domain"),
        (["--trust-domain", ""], "--trust-domain"),
    ],
)
def test_names_that_cannot_be_used_are_usage_errors_and_nothing_is_made(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = init(tmp_path / "dev", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "dev").exists()


def test_another_trust_domain_is_used_everywhere(tmp_path: Path) -> None:
    assert init(tmp_path, "--trust-domain", "acme.test").exit_code == 0
    config = Config.load(tmp_path / "config.yaml", {})
    assert str(config.trust_domain) == "acme.test"
    manifests = b"".join(path.read_bytes() for path in (tmp_path / "policies/agents").iterdir())
    assert b"spiffe://acme.test/agent/support" in manifests
    assert b"spiffe://example.org/" not in b"".join(contents(tmp_path).values())
    assert init(tmp_path).stdout == "Nothing to do: everything is there.\n"


def test_the_trust_domain_of_a_workspace_cannot_change(dev: Path) -> None:
    before = contents(dev)
    result = init(dev, "--trust-domain", "acme.test")
    assert result.exit_code == 1
    assert "authority of `example.org`, not of `acme.test`" in result.stderr
    assert contents(dev) == before


@pytest.mark.parametrize("said", ["profile: production\n", "trust_domain: example.org\n", "[", ""])
@pytest.mark.parametrize("arguments", [[], ["--renew"]])
def test_a_directory_that_is_not_for_development_is_unsafe(dev: Path, said: str, arguments: list[str]) -> None:
    (dev / "config.yaml").write_text(said)
    before = contents(dev)
    result = init(dev, *arguments)
    assert result.exit_code == 4
    assert "profile: dev" in result.stderr
    assert contents(dev) == before


def test_a_production_profile_in_the_environment_is_unsafe(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "dev")], env={"AUTHZ_SIDECAR_PROFILE": "production"})
    assert result.exit_code == 4
    assert not (tmp_path / "dev").exists()


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev").write_text("")
    result = init(tmp_path / "dev")
    assert result.exit_code == 3
    assert str(tmp_path / "dev") in result.stderr
    assert "Traceback" not in result.output
