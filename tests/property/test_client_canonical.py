"""The client's digests are those of an independent RFC 8785 implementation, or absent."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz_sidecar.client import RequestRejected
from authz_sidecar.client.arguments import encode_arguments
from authz_sidecar.strictjson import parse_object

# Time says nothing here, and machines differ.
LENIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SAFE = st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
ANY = st.recursive(
    st.none() | st.booleans() | SAFE | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
EXACT = st.recursive(
    st.none() | st.booleans() | SAFE | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@LENIENT
@given(st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=4), EXACT, max_size=5))
def test_the_subset_has_the_digest_of_rfc8785(arguments: dict[str, Any]) -> None:
    encoded = encode_arguments(arguments)

    assert encoded.json == rfc8785.dumps(arguments)
    assert encoded.sha256 == hashlib.sha256(rfc8785.dumps(arguments)).digest()


@LENIENT
@given(st.dictionaries(st.text(max_size=4), ANY, max_size=5))
def test_a_digest_is_right_or_absent_and_what_is_sent_reads_back_as_it_was(arguments: dict[str, Any]) -> None:
    try:
        encoded = encode_arguments(arguments)
    except RequestRejected:
        return

    read = parse_object(encoded.json, max_bytes=2**20, max_depth=32)
    assert read == arguments
    assert json.dumps(read, sort_keys=True) == json.dumps(arguments, sort_keys=True)
    assert encoded.sha256 in (b"", hashlib.sha256(rfc8785.dumps(arguments)).digest())
