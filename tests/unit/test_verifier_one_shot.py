"""Accepting once: across threads, across clocks that jump, within a bounded memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from authz_sidecar.verifier import OneShot, Reason, TokenRejected


def redeem(seen: OneShot, jti: str, *, until: float = 130, at: float = 0, issuer: str = "a") -> str:
    try:
        seen.redeem(issuer=issuer, jti=jti, until=until, at=at)
    except TokenRejected as rejected:
        return rejected.reason.value
    return "accepted"


def test_same_identifier_of_another_issuer_is_another_token() -> None:
    seen = OneShot()
    assert [redeem(seen, "x"), redeem(seen, "x", issuer="b"), redeem(seen, "x")] == ["accepted", "accepted", "replayed"]


def test_memory_is_bounded_and_freed_by_expiry_only() -> None:
    seen = OneShot(max_tokens=2)
    assert redeem(seen, "short", until=10) == "accepted"
    assert redeem(seen, "long", until=100) == "accepted"
    assert redeem(seen, "third", at=9.9) == "overloaded"
    assert redeem(seen, "short", until=10, at=9.9) == "replayed"
    assert redeem(seen, "third", at=10) == "accepted"
    assert redeem(seen, "long", until=100, at=99) == "replayed"


def test_clock_set_back_does_not_bring_a_forgotten_token_back() -> None:
    seen = OneShot()
    assert redeem(seen, "x", until=10) == "accepted"
    assert redeem(seen, "y", until=100, at=50) == "accepted"
    assert redeem(seen, "x", until=10, at=5) == Reason.EXPIRED.value


def test_one_of_many_threads_wins() -> None:
    seen = OneShot()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: redeem(seen, "x"), range(200)))
    assert sorted(set(results)) == ["accepted", "replayed"]
    assert results.count("accepted") == 1


def test_remembering_nothing_is_not_an_option() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        OneShot(max_tokens=0)
