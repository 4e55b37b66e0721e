"""Whatever a caller sends is either a command or a list of wrong fields; nothing else comes out of step 2."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_sidecar.engine.commands import CommandLimits, authorize_command, report_outcome_command, start_task_command
from authz_sidecar.errors import InvalidRequest

LIMITS = CommandLimits(max_arguments_bytes=4096)
REQUEST = {
    "request_id": "r-1",
    "task_id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "tool_server": "crm",
    "tool_name": "read_contact",
    "arguments_json": b'{"contact_id":"c-1"}',
    "arguments_digest": None,
    "resource": "",
    "audience": "",
    "justification": "",
    "tool_call_id": "",
    "traceparent": "",
    "proof_key_thumbprint": "",
    "min_policy_digest": "",
    "at_least_epoch": 0,
}
FIELDS = sorted(name for name, value in REQUEST.items() if isinstance(value, str))
texts = st.text(max_size=40) | st.text("abcXYZ019._:-/* \x00\n", max_size=140)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), texts, max_size=3), st.binary(max_size=60))
def test_any_fields_give_a_command_or_name_what_is_wrong(changes: dict[str, str], arguments: bytes) -> None:
    try:
        command = authorize_command(**{**REQUEST, **changes, "arguments_json": arguments}, limits=LIMITS)
    except InvalidRequest as error:
        assert error.violations
        wrong = {violation.field for violation in error.violations}
        assert wrong <= {*FIELDS, "arguments_json"}
        return
    assert command.arguments is not None
    assert len(command.content_sha256) == 64


@settings(max_examples=300)
@given(documents)
def test_arguments_that_are_accepted_mean_what_was_sent(document: object) -> None:
    raw = json.dumps(document, allow_nan=True).encode()
    try:
        command = authorize_command(**{**REQUEST, "arguments_json": raw}, limits=LIMITS)
    except InvalidRequest:
        return
    assert command.arguments == json.loads(raw)


@pytest.mark.parametrize("field", ["task_id", "tool_name", "resource", "audience", "justification", "tool_call_id"])
def test_every_field_of_the_question_is_part_of_its_identity(field: str) -> None:
    """A cache key that omits a field lets one decision answer another question."""
    before = authorize_command(**REQUEST, limits=LIMITS)
    after = authorize_command(**{**REQUEST, field: "other"}, limits=LIMITS)
    assert before.content_sha256 != after.content_sha256


def test_arguments_and_their_digest_are_different_questions() -> None:
    full = authorize_command(**REQUEST, limits=LIMITS)
    digest = bytes.fromhex(full.arguments_sha256)
    only = authorize_command(**{**REQUEST, "arguments_json": None, "arguments_digest": digest}, limits=LIMITS)
    assert only.arguments_sha256 == full.arguments_sha256
    assert only.content_sha256 != full.content_sha256


def test_the_trace_is_not_part_of_the_question() -> None:
    traced = authorize_command(**{**REQUEST, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, limits=LIMITS)
    assert traced.trace is not None
    assert traced.content_sha256 == authorize_command(**REQUEST, limits=LIMITS).content_sha256


START = {
    "request_id": "r-1",
    "purpose": "answer a ticket",
    "objective": "",
    "initiator_kind": "human",
    "initiator_id": "maria",
    "tools": ["crm/read_contact"],
    "resources": ["crm:*"],
    "ceiling": "internal",
    "ttl": None,
    "traceparent": "",
    "class_exists": {"internal", "public"}.__contains__,
}


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"purpose": ""}, ["purpose"]),
        ({"purpose": "x" * 201}, ["purpose"]),
        ({"initiator_kind": None}, ["initiator.kind"]),
        ({"initiator_id": ""}, ["initiator.id"]),
        ({"tools": []}, ["scope.tools"]),
        ({"tools": ["crm"]}, ["scope.tools"]),
        ({"tools": ["crm/a", "crm/a"]}, ["scope.tools"]),
        ({"tools": [f"crm/t{n}" for n in range(257)]}, ["scope.tools"]),
        ({"resources": []}, ["scope.resources"]),
        ({"resources": ["has space"]}, ["scope.resources"]),
        ({"ceiling": "secret"}, ["scope.ceiling"]),
        ({"ttl": timedelta(0)}, ["ttl"]),
        ({"ttl": timedelta(seconds=-5)}, ["ttl"]),
        ({"purpose": "a\x07b", "objective": "\x1b[2J"}, ["purpose", "objective"]),
    ],
)
def test_a_task_request_names_every_wrong_field(changes: dict[str, object], fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        start_task_command(**{**START, **changes})
    assert [violation.field for violation in caught.value.violations] == fields


@pytest.mark.parametrize("field", ["purpose", "objective", "initiator_id", "tools", "resources", "ceiling", "ttl"])
def test_every_field_of_a_task_is_part_of_its_identity(field: str) -> None:
    other = {"tools": ["crm/other"], "resources": ["mail:*"], "ceiling": "public", "ttl": timedelta(minutes=1)}
    changed = start_task_command(**{**START, field: other.get(field, "other")})
    assert changed.content_sha256 != start_task_command(**START).content_sha256


@given(st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=600))
def test_an_outcome_has_whole_digests_or_none(result: bytes, arguments: bytes, detail: str) -> None:
    try:
        command = report_outcome_command(
            decision_id="d-1", status="success", result_sha256=result, arguments_sha256=arguments, detail=detail,
            traceparent="",
        )  # fmt: skip
    except InvalidRequest as error:
        assert {violation.field for violation in error.violations} <= {"result_sha256", "arguments_sha256", "detail"}
        return
    assert command.result_sha256 == (result.hex() or None)
    assert len(detail) <= 512
