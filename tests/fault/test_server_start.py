"""What stops a start: exit code 3, one line that says where and what to do, and nothing served."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from authz_sidecar.files import write_private
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.store import Ledger
from authz_sidecar.strictjson import Json
from tests.support.identity import key_pem
from tests.support.ledger import decision
from tests.support.sidecar import Caller, World, copy_of, refused, running, world
from tests.support.world_identity import WorldIdentity, edit_config

ORIGIN = "example.org/authz-sidecar/dev"


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
def made(template: World) -> Iterator[World]:
    with copy_of(template) as copy:
        yield copy


def expect_refused(made: World, *said: str) -> None:
    ended = refused(made)
    assert ended.returncode == 3, ended.stderr
    for text in said:
        assert text in ended.stderr
    assert all(line.startswith(("error: ", "{")) for line in ended.stderr.splitlines())
    assert "serving" not in ended.stdout + ended.stderr
    assert not made.socket.exists()


def records(made: World) -> list[Mapping[str, Json]]:
    with LedgerReader.open(made.ledger) as reader:
        return [entry.record for entry in map(reader.entry, range(reader.size)) if entry is not None]


def write_policy(made: World, name: str, text: str) -> None:
    (made.directory / "policies" / name).write_text(text)


LONG_NAME = "y" * 40_000
BROKEN_BUNDLES: dict[str, tuple[dict[str, str], str]] = {
    "syntax": ({"rules/crm.cedar": "permit(\n"}, "rules/crm.cedar:1:8: not a Cedar policy: unexpected end of input"),
    "schema": (
        {"rules/x.cedar": '@id("x")\n@reason("x")\npermit(principal, action, resource)\nwhen { principal.nosuch };\n'},
        "rules/x.cedar:4:18: attribute `nosuch` on entity type `Agent` not found",
    ),
    "catalog": ({"catalog/data.yaml": "clases: []\n"}, "catalog/data.yaml:1:1: `"),
    # Longer than a record may be: the rejection itself must still fit one.
    "endless": (
        {
            f"rules/x{number}.cedar": f'@id("x{number}")\n@reason("x")\n'
            f"permit(principal, action, resource) when {{ principal.{LONG_NAME} }};\n"
            for number in range(10, 13)
        },
        "rules/x10.cedar:3:",
    ),
}


@pytest.mark.parametrize(("files", "says"), BROKEN_BUNDLES.values(), ids=BROKEN_BUNDLES.keys())
def test_a_bundle_that_does_not_compile_is_recorded_and_not_served(
    made: World, files: dict[str, str], says: str
) -> None:
    for name, text in files.items():
        write_policy(made, name, text)
    expect_refused(made, f"error: {says}")
    started, rejected, stopped = records(made)
    assert (started["type"], rejected["type"], stopped["type"]) == (
        "sidecar_started",
        "bundle_rejected",
        "sidecar_stopped",
    )
    problems, policy = rejected["problems"], rejected["policy"]
    assert isinstance(problems, list)
    assert isinstance(policy, dict)
    assert str(problems[0]).startswith(says)
    assert str(policy["sha256"]).startswith("sha256:")


@pytest.mark.slow
def test_after_the_bundle_is_corrected_the_same_ledger_goes_on(made: World) -> None:
    good = (made.directory / "policies" / "rules" / "crm.cedar").read_text()
    write_policy(made, "rules/crm.cedar", good.replace("permit", "premit"))
    expect_refused(made, "rules/crm.cedar:")
    write_policy(made, "rules/crm.cedar", good)
    with running(made) as sidecar, Caller(made) as caller:
        assert caller.authorize(caller.start_task()).token.value
        assert sidecar.stop() == 0
    types = [record["type"] for record in records(made)]
    assert types[:5] == [
        "sidecar_started",
        "bundle_rejected",
        "sidecar_stopped",
        "sidecar_started",
        "bundle_activated",
    ]


def test_a_wrong_configuration_is_told_by_line_before_anything_is_touched(made: World) -> None:
    edit_config(
        made,
        ("environment: {name: development, production: false}", "environment: {name: development, production: true}"),
        ("  signing_key: keys/token.pem", "  signing_key: keys/tokn.pem"),
        ("  origin:", "  max_queud: 5\n  origin:"),
    )
    expect_refused(made, "config.yaml:", "max_queud`: unknown key (did you mean `max_queued`?)")
    edit_config(made, ("  max_queud: 5\n", ""))
    expect_refused(made, "config.yaml:5:46:", "the `dev` profile must not touch production")
    edit_config(made, ("production: true", "production: false"))
    expect_refused(made, "`token.signing_key`", "tokn.pem: no such file; create it, or correct the path")
    assert not made.ledger.exists()


def token_key_for_checkpoints(made: World) -> None:
    write_private(made.directory / "keys" / "checkpoint.pem", (made.directory / "keys" / "token.pem").read_bytes())


def checkpoint_key_for_tokens(made: World) -> None:
    write_private(made.directory / "keys" / "token.pem", (made.directory / "keys" / "checkpoint.pem").read_bytes())


def svid_with_the_key_of_another(made: World) -> None:
    write_private(made.svid("sidecar") / "svid_key.pem", key_pem(WorldIdentity(made).leaf().key))


def svid_that_others_can_read(made: World) -> None:
    (made.svid("sidecar") / "svid_key.pem").chmod(0o644)


def bundle_that_is_none(made: World) -> None:
    (made.directory / "trust" / "bundle.json").write_text('{"keys": 7}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (token_key_for_checkpoints, "checkpoint.pem` is not a readable Ed25519 private key"),
        (checkpoint_key_for_tokens, "token.pem"),
        (svid_with_the_key_of_another, "belongs to another certificate"),
        (svid_that_others_can_read, "so others can read the key; chmod 0600 it"),
        (bundle_that_is_none, "bundle.json` is not a trust bundle of `example.org`"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_key_or_a_bundle_that_does_not_fit_stops_the_start(
    made: World, damage: Callable[[World], None], says: str
) -> None:
    damage(made)
    expect_refused(made, says)


@pytest.mark.slow
def test_a_ledger_of_another_key_is_not_continued(made: World) -> None:
    with running(made) as sidecar:
        assert sidecar.stop() == 0
    before = records(made)
    other = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(made.directory / "keys" / "checkpoint.pem", other)
    expect_refused(made, "is signed with the key", "use an empty directory for the latter")
    assert records(made) == before


def write_entry(made: World, at: datetime) -> None:
    """A ledger of this world whose newest entry is of that time."""
    key = load_pem_private_key((made.directory / "keys" / "checkpoint.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)

    async def write(directory: Path) -> None:
        signer = Signer(ORIGIN, key.private_bytes_raw())
        ledger = Ledger.open(directory, signer=signer, now=lambda: at, new_salt=lambda: secrets.token_bytes(16))
        await ledger.append(decision("d-1", at=at))
        await ledger.close()

    asyncio.run(write(made.ledger))


def test_a_clock_behind_the_newest_entry_stops_the_start(made: World) -> None:
    write_entry(made, datetime.now(UTC) + timedelta(hours=1))
    expect_refused(made, "s behind the newest entry of the ledger", "correct the clock and start again")
    assert len(records(made)) == 1


@pytest.mark.slow
def test_a_clock_that_is_behind_by_less_than_the_tolerance_does_not(made: World) -> None:
    write_entry(made, datetime.now(UTC) + timedelta(seconds=1.5))
    with running(made) as sidecar, Caller(made) as caller:
        assert caller.authorize(caller.start_task()).token.value
        assert sidecar.stop() == 0
    times = [str(record["time"]) for record in records(made)]
    assert times == sorted(times)
