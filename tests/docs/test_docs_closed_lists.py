"""What the pages list is what the code has, both ways: reason codes, metrics, configuration keys, RPCs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from authz_sidecar.client import OutcomeStatus
from authz_sidecar.config import config_reference
from authz_sidecar.errors import SidecarError
from authz_sidecar.pdp.verdict import ApprovalRequired, Permit
from authz_sidecar.policy.files import SCHEMA_FILE
from authz_sidecar.server.access import TABLE, Role
from authz_sidecar.server.status import presentable, status_of
from authz_sidecar.telemetry.metrics import Metrics
from tests.support.pages import ROOT, all_pages, code_in, page, table_rows

PACKAGE = ROOT / "authz_sidecar"


def calls(*directories: str) -> Iterator[ast.Call]:
    for directory in directories:
        for path in sorted((PACKAGE / directory).rglob("*.py")):
            yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def text_of(node: ast.expr) -> set[str]:
    """The constant texts that an argument can be, a conditional's both."""
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def keyword_texts(name: str, *directories: str) -> set[str]:
    found = (keyword.value for call in calls(*directories) for keyword in call.keywords if keyword.arg == name)
    plain = (value for value in found if isinstance(value, ast.Constant | ast.IfExp))
    return {text for value in plain for text in text_of(value)}


def first_column(page_name: str, heading: str) -> list[str]:
    return [name for row in table_rows(page(page_name).section(heading)) for name in code_in(row[0])]


def test_reason_codes_of_decisions() -> None:
    code = keyword_texts("reason_code", "engine", "pdp") | {
        Permit.__dataclass_fields__["reason_code"].default,
        ApprovalRequired.__dataclass_fields__["reason_code"].default,
    }
    rows = table_rows(page("docs/security-engineer.md").section("Reason codes"))
    assert {code_in(row[0])[0] for row in rows} == code
    assert {row[1] for row in rows} == {"permit", "deny", "approval_required"}
    cycle = page("docs/DECISION-CYCLE.md").text.partition("## What a failure looks like")[0]
    for name in code - {"permitted", "facts_incomplete"}:
        assert f"`{name}`" in cycle


def test_reasons_of_errors_on_the_wire() -> None:
    def family(kind: type[SidecarError]) -> Iterator[type[SidecarError]]:
        for child in kind.__subclasses__():
            yield child
            yield from family(child)

    leaves = [kind for kind in family(SidecarError) if not kind.__subclasses__()]
    told = {
        (status_of(error).name, error.reason)
        for kind in leaves
        if presentable(error := kind.__new__(kind)) is error
    } | {("INTERNAL", SidecarError.reason)}  # fmt: skip
    shown = set()
    for row in table_rows(page("docs/DECISION-CYCLE.md").section("What a failure looks like")):
        status, *reasons = code_in(row[1])
        shown |= {(status, reason) for reason in reasons}
    assert shown == told


def test_reasons_that_the_client_makes_up() -> None:
    raised = {
        text
        for call in calls("client")
        if isinstance(call.func, ast.Name) and call.func.id in ("SidecarUnavailable", "RequestRejected", "Lost")
        for text in text_of(call.args[0])
        if text.isupper()
    }
    listed = set(first_column("docs/agent-developer.md", "When the answer is no"))
    wire = code_in(page("docs/DECISION-CYCLE.md").section("What a failure looks like"))
    assert {name for name in listed if name.isupper()} == raised - {*wire}
    denials = keyword_texts("reason_code", "client") - {""}
    assert denials == {"unknown_outcome", "unknown_obligation"}
    assert all(f"`{name}`" in page("docs/agent-developer.md").text for name in denials)


def test_values_that_records_hold() -> None:
    text = page("docs/ledger-records.md").text
    engine = (PACKAGE / "engine" / "outcome.py").read_text()
    contradictions = set(re.findall(r'contradictions\.add\("(\w+)"\)', engine))
    row = next(row for row in table_rows(text) if row[0] == "`contradictions[]`")
    assert set(code_in(row[1])) == contradictions
    authorize = (PACKAGE / "engine" / "authorize.py").read_text()
    voids = set(re.findall(r'_void\([^)]*"(\w+)"\)', authorize))
    row = next(row for row in table_rows(text) if row[0] == "`reason`")
    assert set(code_in(row[1])) == voids
    row = next(row for row in table_rows(text) if row[0] == "`status`")
    assert set(code_in(row[1])) == {status.name.lower() for status in OutcomeStatus}


def test_metrics_and_their_labels() -> None:
    families = {}
    for family in Metrics().registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        families[f"{family.name}{suffix}"] = set(_labels(Path(PACKAGE / "telemetry" / "metrics.py"), family.name))
    rows = table_rows(page("docs/platform.md").section("Watch"))
    listed = {
        code_in(row[0])[0]: set(code_in(row[1]))
        for row in rows
        if row[0].startswith("`authz_sidecar_") and len(row) == 3
    }
    assert listed == families
    named = {name for shown in all_pages() for name in re.findall(r"authz_sidecar_[a-z_]+(?=[{`\s)])", shown.text)}
    assert named - set(families) - {"authz_sidecar_"} == set()


def test_every_metric_is_fed_by_somebody() -> None:
    source = (PACKAGE / "telemetry" / "metrics.py").read_text()
    fills = {
        method: re.findall(r"self\._(\w+)\.", body)
        for method, body in re.findall(r"def ([a-z]\w+)\(.*?\n(.*?)(?=\n    def |\Z)", source, re.DOTALL)
    }
    used = {
        node.attr
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "metrics.py" and "v1" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    attributes = dict(re.findall(r'self\._(\w+) = self\._\w+\("(\w+)"', source))
    filled = {attributes[name] for method in fills.keys() & used for name in fills[method] if name in attributes}
    assert filled == set(attributes.values())


def _labels(source: Path, name: str) -> list[str]:
    """Labels as declared: the arguments behind name and help text."""
    short = name.removeprefix("authz_sidecar_")
    found = re.search(rf'\("{short}(?:_total)?", "[^"]*"((?:, "\w+")*)', source.read_text())
    return re.findall(r'"(\w+)"', found[1]) if found else []


def test_steps_of_a_decision_that_are_measured() -> None:
    measured = {
        text
        for call in calls("engine")
        if isinstance(call.func, ast.Attribute) and call.func.attr == "observe_step"
        for text in text_of(call.args[0])
    }
    row = next(row for row in table_rows(page("docs/platform.md").text) if row[0] == "`authz_sidecar_step_seconds`")
    assert set(code_in(row[2])) == measured


def test_configuration_keys_that_pages_name_exist() -> None:
    keys = {key.name.replace("[]", "") for key in config_reference()}
    sections = {key.rpartition(".")[0] for key in keys if "." in key} | keys
    top = {name.partition(".")[0] for name in keys if "." in name}
    named = 0
    for shown in all_pages():
        for text in code_in(shown.prose()):
            name = re.split(r"[=: ]", text)[0]
            if name.partition(".")[0] in top and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", name) and not _is_other(name):
                assert name in sections, f"{shown.name}: `{name}`"
                named += 1
    assert named > 20


def _is_other(name: str) -> bool:
    """Members of records, and files, that are spelled like keys."""
    return f"`{name}`" in page("docs/ledger-records.md").text or name in (SCHEMA_FILE, "policy.id")


def test_what_is_not_built_is_said() -> None:
    modules = (PACKAGE / "server" / name for name in ("services.py", "revocation.py"))
    built = {name for path in modules for name in re.findall(r'"(\w+Service/\w+)": ', path.read_text())}
    built |= set(re.findall(r'bidi=\{"(\w+Service/\w+)"', (PACKAGE / "app.py").read_text()))
    rows = table_rows(page("docs/limitations.md").section("In the contract, not built"))
    listed = {f"{row[0]}/{method}" for row in rows for method in code_in(row[1])}
    assert listed == set(TABLE) - built


def test_roles_in_the_configuration_are_those_of_the_table() -> None:
    row = next(row for row in table_rows(page("docs/platform.md").text) if row[0].startswith("`access."))
    roles = {name.removeprefix("access.").removesuffix("s") for name in code_in(row[0])}
    assert roles == {role.value for role in Role} - {Role.WORKLOAD.value, Role.HUMAN.value}


def test_exit_codes_of_serve_are_those_of_the_command_line() -> None:
    listed = {int(row[0]) for row in table_rows(page("docs/platform.md").section("Exit codes of `serve`"))}
    known = {int(code_in(row[0])[0]) for row in table_rows(page("docs/cli.md").section("Exit codes"))}
    assert listed <= known
