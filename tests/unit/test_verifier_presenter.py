"""Who presented a token, from the certificate that TLS verified."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar.verifier import Presenter, Reason, x5t_s256
from tests.support.identity import Authority, Leaf
from tests.support.tokens import AGENT, NOW, Issuer, refuse, verify

CA = Authority.root()


def der(leaf: Leaf) -> bytes:
    return leaf.certificate.public_bytes(Encoding.DER)


def test_token_bound_to_an_svid_is_accepted_from_its_holder_only() -> None:
    holder, thief = CA.leaf(AGENT, dns=["planner"]), CA.leaf(AGENT)
    token = Issuer().token(cnf={"x5t#S256": x5t_s256(der(holder))})
    assert Presenter.from_certificate(der(holder)).spiffe_id == AGENT
    verify(token, presenter=Presenter.from_certificate(der(holder)))
    # A rotated SVID of the same workload has another thumbprint: ask for a new token after rotation.
    refuse(Reason.WRONG_PRESENTER, token, presenter=Presenter.from_certificate(der(thief)))


def test_certificate_of_another_workload_does_not_present_the_agents_token() -> None:
    other = CA.leaf("spiffe://example.org/agent/other")
    token = Issuer().token(cnf={"x5t#S256": x5t_s256(der(other))})
    refuse(Reason.WRONG_PRESENTER, token, presenter=Presenter.from_certificate(der(other)))


@pytest.mark.parametrize("uris", [(), (AGENT, "spiffe://example.org/agent/other")])
def test_certificate_that_names_not_exactly_one_workload_presents_nothing(uris: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="exactly one URI"):
        Presenter.from_certificate(der(CA.leaf(*uris)))


@pytest.mark.parametrize("junk", [b"", b"junk", CA.leaf(AGENT).pem])
def test_what_is_not_a_der_certificate_presents_nothing(junk: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Presenter.from_certificate(junk)


def test_validity_of_the_certificate_is_left_to_tls() -> None:
    expired = CA.leaf(AGENT, not_before=NOW - timedelta(days=2), not_after=NOW - timedelta(days=1))
    assert Presenter.from_certificate(der(expired)).spiffe_id == AGENT
