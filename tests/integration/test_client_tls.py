"""Mutual TLS by SVID files: whom the client trusts, and how it follows a rotation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from authz_sidecar.client import AsyncClient, Permitted, SidecarUnavailable
from tests.support.client import (
    FakeSidecar,
    Gate,
    TlsFixture,
    async_client,
    eventually_async,
    fake_sidecar,
    permit,
    replace,
    start,
    start_sync,
    sync_client,
)

SHORT = timedelta(seconds=0.4)


@pytest.fixture
def tls(tmp_path: Path) -> TlsFixture:
    return TlsFixture.create(tmp_path)


@pytest.fixture
def sidecar(tls: TlsFixture) -> Iterator[FakeSidecar]:
    with fake_sidecar(tls.server_credentials()) as running:
        yield running


async def test_the_agent_is_known_by_its_svid(sidecar: FakeSidecar, tls: TlsFixture) -> None:
    leaf = tls.rotate()
    async with async_client(sidecar, svid=tls.files) as client:
        assert isinstance(await (await start(client)).authorize("crm", "read_contact", {}), Permitted)

    assert [seen.certificate for seen in sidecar.seen] == [leaf]


def test_a_tcp_target_expects_the_same_name_and_needs_no_proxy(
    tls: TlsFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_grpc_proxy", "")
    monkeypatch.setenv("no_proxy", "")
    tls.rotate()
    with fake_sidecar(tls.server_credentials(), address="127.0.0.1:0") as sidecar:
        assert sidecar.target.startswith("127.0.0.1:")
        with sync_client(sidecar, svid=tls.files) as client:
            assert isinstance(start_sync(client).authorize("crm", "read_contact", {}), Permitted)


async def test_a_server_with_another_name_is_not_the_sidecar(tls: TlsFixture) -> None:
    tls.rotate()
    with fake_sidecar(tls.server_credentials("another-service")) as impostor:
        async with async_client(impostor, svid=tls.files, timeout=SHORT) as client:
            with pytest.raises(SidecarUnavailable, match="UNAVAILABLE"):
                await start(client)

    assert impostor.started == []


async def test_a_server_of_another_trust_domain_is_not_the_sidecar(tls: TlsFixture, tmp_path: Path) -> None:
    tls.rotate()
    (tmp_path / "other").mkdir()
    with fake_sidecar(TlsFixture.create(tmp_path / "other").server_credentials()) as impostor:
        async with async_client(impostor, svid=tls.files, timeout=SHORT) as client:
            with pytest.raises(SidecarUnavailable, match="UNAVAILABLE"):
                await start(client)

    assert impostor.started == []


async def test_a_rotated_svid_is_used_for_new_calls_while_old_ones_end_undisturbed(
    sidecar: FakeSidecar, tls: TlsFixture
) -> None:
    gate = Gate(permit())
    sidecar.on("crm/slow", gate)
    first = tls.rotate()
    async with async_client(sidecar, svid=tls.files) as client:
        task = await start(client)
        in_flight = asyncio.create_task(task.authorize("crm", "slow", {}))
        await eventually_async(lambda: gate.waiting == 1)
        second = tls.rotate()
        assert isinstance(await task.authorize("crm", "read_contact", {}), Permitted)
        gate.open()
        assert isinstance(await in_flight, Permitted)
        await task.authorize("crm", "read_contact", {})

    assert [seen.certificate for seen in sidecar.seen] == [first, second, second]
    assert [seen.stream for seen in sidecar.seen] == [1, 2, 2]
    await eventually_async(lambda: sidecar.open_streams == 0)


async def test_the_replaced_connection_is_closed_after_its_last_call(sidecar: FakeSidecar, tls: TlsFixture) -> None:
    tls.rotate()
    async with async_client(sidecar, svid=tls.files) as client:
        task = await start(client)
        await task.authorize("crm", "read_contact", {})
        tls.rotate()
        await task.authorize("crm", "read_contact", {})
        assert sidecar.streams == 2
        await eventually_async(lambda: sidecar.open_streams == 1)


async def test_half_a_rotation_keeps_the_last_good_svid(
    sidecar: FakeSidecar, tls: TlsFixture, caplog: pytest.LogCaptureFixture
) -> None:
    first = tls.rotate()
    async with async_client(sidecar, svid=tls.files) as client:
        task = await start(client)
        await task.authorize("crm", "read_contact", {})
        second = tls.leaf()
        replace(Path(tls.files.cert), second.chain_pem)
        await task.authorize("crm", "read_contact", {})
        await task.authorize("crm", "read_contact", {})
        replace(Path(tls.files.key), second.key_pem)
        await task.authorize("crm", "read_contact", {})

    assert [seen.certificate for seen in sidecar.seen] == [first, first, first, second.pem]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "same rotation" in warnings[0].getMessage()


@pytest.mark.parametrize("file", ["svid.pem", "svid_key.pem", "bundle.pem"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_without_usable_files_nothing_is_trusted(
    sidecar: FakeSidecar, tls: TlsFixture, tmp_path: Path, file: str, content: bytes | None
) -> None:
    tls.rotate()
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    async with async_client(sidecar, svid=tls.files, timeout=SHORT) as client:
        with pytest.raises(SidecarUnavailable, match="CREDENTIAL_UNUSABLE") as caught:
            await start(client)

    assert file in caught.value.message
    assert sidecar.started == []


async def test_files_that_appear_in_time_are_used(sidecar: FakeSidecar, tls: TlsFixture) -> None:
    async with async_client(sidecar, svid=tls.files) as client:
        starting = asyncio.create_task(start(client))
        await asyncio.sleep(0.1)
        tls.rotate()
        assert (await starting).info.state == "active"


def test_a_bearer_token_does_not_travel_over_tcp() -> None:
    with pytest.raises(ValueError, match="unix"):
        AsyncClient("127.0.0.1:1", jwt_svid=lambda: "e30.e30.c2ln", proof_key_thumbprint="A" * 43)
