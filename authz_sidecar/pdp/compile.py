"""From the files of a bundle to a PDP, or to everything that is wrong with them.

A bundle decides whole or not at all: it parses, validates against the schema, and answers a sample request per action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType

import orjson
from cedarpy import Entities, Schema, validate_policies

from authz_sidecar.documents import Problem
from authz_sidecar.pdp.action_schema import build_action_schemas
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.index import build_index
from authz_sidecar.pdp.literals import literal_problems, named_entities
from authz_sidecar.pdp.policies import Policy, policy_set, read_policies
from authz_sidecar.pdp.probe import probe_problems
from authz_sidecar.pdp.schema import generated_schema
from authz_sidecar.pdp.source import Statement, depth_problem, offset_of, syntax_problem
from authz_sidecar.policy.bundle import BundleFiles, BundleRejected, load_bundle
from authz_sidecar.policy.files import SCHEMA_FILE

__all__ = ["BundleRejected", "compile_bundle"]


def compile_bundle(files: BundleFiles) -> Pdp:
    """Compile a bundle. Takes tens of milliseconds and more; keep it off the event loop.

    Raises:
        BundleRejected: with file, line, column and reason of every problem of the first stage that found any: the
            documents; the schema and the form of the policies; their meaning; the sample requests.
    """
    bundle = load_bundle(files)
    schema_text = bundle.schema + "\n" + generated_schema(bundle.catalog.tools.values())
    policies, problems = read_policies(bundle.cedar)
    problems += _schema_problems(bundle.schema, schema_text)
    _refuse(problems or _without_guardrails(policies))
    schema = Schema.from_str(schema_text, release_gil=True)
    known = named_entities(bundle)
    problems += [problem for policy in policies for problem in literal_problems(policy, known)]
    problems += _validation_problems(policies, schema)
    _refuse(problems)
    actions_only = Entities.from_json_str("[]", schema)
    _refuse(list(probe_problems(bundle, schema, actions_only)))
    # The whole set is built once, so that a set that cannot be built is found here and not at a slice.
    policy_set(policies)
    return Pdp(
        bundle=bundle,
        engine=f"cedarpy {version('cedarpy')}",
        policies=MappingProxyType({policy.ref.id: policy.ref for policy in policies}),
        approvals=MappingProxyType({p.ref.id: p.approval for p in policies if p.approval is not None}),
        schema_text=schema_text,
        schemas=build_action_schemas(bundle),
        index=build_index(policies, action_ancestors(actions_only)),
    )


def action_ancestors(actions_only: Entities) -> Mapping[str, frozenset[str]]:
    """Every action of the schema with all its ancestors, as the engine computed them.

    Args:
        actions_only: entities built with the schema from an empty document.
    """
    return {
        action["uid"]["id"]: frozenset(parent["id"] for parent in action["parents"])
        for action in orjson.loads(str(actions_only))
        if action["uid"]["type"] == "Action"
    }


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise BundleRejected(problems)


def _without_guardrails(policies: Sequence[Policy]) -> list[Problem]:
    """A bundle that nothing bounds is a directory that was not copied whole, never what somebody wants."""
    if any(policy.ref.tier == "hard" for policy in policies):
        return []
    message = "no policy of the bundle is a hard guardrail; copy `guardrails/` from the starter bundle"
    return [Problem(file="guardrails/", message=message)]


def _schema_problems(operators: str, whole: str) -> Iterator[Problem]:
    statement = Statement(SCHEMA_FILE, operators, 1, 1)
    problem = depth_problem(statement, angles=True) or syntax_problem(statement, Schema.from_str, "schema")
    if problem is not None:
        yield problem
        return
    try:
        Schema.from_str(whole)
    except ValueError as error:
        # The engine repeats a missing name once for every action that needs it.
        start, separator, names = str(error).partition(": ")
        said = f"{start}{separator}{', '.join(dict.fromkeys(names.split(', ')))}"
        message = f"does not fit the actions generated from the catalog: {said}"
        yield statement.problem(message, offset_of(operators, said))


def _validation_problems(policies: Sequence[Policy], schema: Schema) -> Iterator[Problem]:
    # Statement by statement in one text, so that the engine's numbers are positions in `policies`.
    text = "\n".join(policy.statement.text for policy in policies)
    result = validate_policies(text, schema, release_gil=True)
    if result.validation_passed:
        return
    places = {f"policy{position}": policy.statement for position, policy in enumerate(policies)}
    seen: set[tuple[str, str]] = set()
    for error in result.errors:
        message = error.error.removeprefix(f"for policy `{error.policy_id}`, ")
        # This one only follows from an action that does not exist, which has an error of its own.
        follows = message.startswith("unable to find an applicable action") and any(
            name == error.policy_id for name, _ in seen
        )
        if follows or (error.policy_id, message) in seen:
            continue
        seen.add((error.policy_id, message))
        statement = places.get(error.policy_id)
        if statement is None:
            yield Problem(file=SCHEMA_FILE, message=message)
        else:
            yield statement.problem(message, offset_of(statement.text, message))
    if not seen:
        # No vacuous success: not passed without a reason is still not passed.
        yield Problem(file=SCHEMA_FILE, message="the policies do not validate against the schema")
