"""Combinations that cannot work are refused when the client is made, with the remedy."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from authz_sidecar.client import AsyncClient, Initiator, SvidFiles

FILES = SvidFiles("svid.pem", "svid_key.pem", "bundle.pem")
THUMBPRINT = "A" * 43


@pytest.mark.parametrize(
    ("target", "options", "error", "remedy"),
    [
        ("unix:/s", {}, ValueError, "either `svid` or `jwt_svid`"),
        ("unix:/s", {"svid": FILES, "jwt_svid": lambda: ""}, ValueError, "either `svid` or `jwt_svid`"),
        ("unix:/s", {"jwt_svid": lambda: ""}, ValueError, "`proof_key_thumbprint`"),
        ("unix:/s", {"jwt_svid": "a.b.c", "proof_key_thumbprint": THUMBPRINT}, TypeError, "Path"),
        ("host:1", {"jwt_svid": lambda: "", "proof_key_thumbprint": THUMBPRINT}, ValueError, "use `svid` over TCP"),
        ("unix:/s", {"svid": FILES, "proof_key_thumbprint": "short"}, ValueError, "43 characters"),
        ("unix:/s", {"svid": FILES, "timeout": timedelta(0)}, ValueError, "`timeout`"),
    ],
)
def test_it_is_refused(target: str, options: dict[str, Any], error: type[Exception], remedy: str) -> None:
    with pytest.raises(error, match=remedy):
        AsyncClient(target, **options)


def test_nothing_is_read_or_connected_before_the_first_call() -> None:
    AsyncClient("unix:/nowhere", svid=FILES)


def test_an_initiator_is_a_human_or_a_workflow() -> None:
    with pytest.raises(ValueError, match="`workflow`"):
        Initiator("agent", "a-1")  # type: ignore[arg-type]


def test_the_credential_of_an_initiator_is_never_shown() -> None:
    assert "secret" not in repr(Initiator("human", "alice", "secret"))
