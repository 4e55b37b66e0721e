"""From policy files to policies with stable ids. Everything that can be refused without a schema is refused here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import orjson
from cedarpy import PolicySet, policies_to_json_str, pst

from authz_sidecar.documents import Problem
from authz_sidecar.pdp.annotations import ApprovalRule, annotation_problems, approval_rule
from authz_sidecar.pdp.source import Statement, depth_problem, split, syntax_problem
from authz_sidecar.pdp.verdict import PolicyRef

MAX_POLICIES = 20_000

_TIERS: Mapping[str, Literal["hard", "soft", ""]] = {"hard": "hard", "soft": "soft", "": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One static policy.

    Attributes:
        ref: how decisions name it; `ref.sha256` is over its Cedar JSON form with sorted keys, so blanks and comments
            do not change it.
        tree: its syntax tree, under its `@id`.
        statement: where it stands.
        approval: who may lift it; None unless it is a soft forbid.
    """

    ref: PolicyRef
    tree: pst.Template
    statement: Statement
    approval: ApprovalRule | None

    @property
    def soft(self) -> bool:
        return self.ref.tier == "soft"


def read_policies(cedar: Mapping[str, str]) -> tuple[list[Policy], list[Problem]]:
    """All policies in file order, and everything that is wrong with them.

    Args:
        cedar: path in the bundle to text.
    """
    policies: list[Policy] = []
    problems: list[Problem] = []
    first: dict[str, Statement] = {}
    for file, text in cedar.items():
        for statement, tree, document in _parse(file, text, problems):
            found = list(_problems(statement, tree))
            problems += found
            name = tree.annotations.get("id", "")
            if name in first:
                here = first[name]
                message = f"`@id` `{name}` is already used in {here.file}:{here.line}"
                problems.append(statement.problem(message, _annotation(statement, "id")))
            elif name:
                first[name] = statement
            if not found:
                policies.append(_policy(statement, tree, document))
    if not problems and not policies:
        # A set without policies denies everything; nobody means that, so it must be a bundle that lost its files.
        problems.append(Problem(file="rules/", message="the bundle has no policies"))
    if len(policies) > MAX_POLICIES:
        problems.append(Problem(file="rules/", message=f"{len(policies)} policies; the limit is {MAX_POLICIES}"))
    return policies, problems


def policy_set(policies: list[Policy]) -> PolicySet:
    """An engine handle in which every policy has its `@id` as id."""
    return PolicySet.from_pst(
        pst.PolicySet(templates={}, static_policies={p.ref.id: p.tree for p in policies}, template_links=())
    )


def _parse(file: str, text: str, problems: list[Problem]) -> Iterator[tuple[Statement, pst.Template, bytes]]:
    statements = split(file, text)
    too_deep = [problem for statement in statements if (problem := depth_problem(statement))]
    if too_deep:
        problems += too_deep
        return
    try:
        tree = PolicySet.from_str(text, release_gil=True).to_pst()
        documents = orjson.loads(policies_to_json_str(text))
    except ValueError as error:
        found = [problem for s in statements if (problem := syntax_problem(s, _parse_one))]
        problems += found or [Problem(file=file, line=1, column=1, message=f"not Cedar policies: {error}")]
        return
    both = {**tree.static_policies, **tree.templates}
    if len(both) != len(statements):
        message = f"{len(both)} policies in {len(statements)} statements; the file cannot be attributed line by line"
        problems.append(Problem(file=file, line=1, column=1, message=message))
        return
    for index, statement in enumerate(statements):
        # The engine numbers policies and templates together, in the order of the text.
        name = f"policy{index}"
        if name in tree.templates:
            message = "a template with `?principal` or `?resource`; write a policy for each case"
            problems.append(statement.problem(message))
            continue
        document = orjson.dumps(documents["staticPolicies"][name], option=orjson.OPT_SORT_KEYS)
        yield statement, tree.static_policies[name], document


def _parse_one(text: str) -> object:
    return PolicySet.from_str(text).to_pst()


def _problems(statement: Statement, tree: pst.Template) -> Iterator[Problem]:
    for name, message in annotation_problems(tree.effect, tree.annotations):
        yield statement.problem(message, _annotation(statement, name))
    if statement.file.startswith("guardrails/") and tree.annotations.get("tier", "hard") != "hard":
        message = "a guardrail must be a hard forbid; move the policy to rules/"
        yield statement.problem(message, _annotation(statement, "tier"))
    if statement.file.startswith("guardrails/") and tree.effect == "permit":
        yield statement.problem("a permit among the guardrails; move the policy to rules/")


def _annotation(statement: Statement, name: str) -> int:
    return max(statement.text.find(f"@{name}"), 0) if name else 0


def _policy(statement: Statement, tree: pst.Template, document: bytes) -> Policy:
    annotations = tree.annotations
    ref = PolicyRef(
        id=annotations["id"],
        effect=tree.effect,
        tier=_TIERS[annotations.get("tier", "")],
        reason=annotations["reason"],
        sha256=hashlib.sha256(document).hexdigest(),
    )
    approval = approval_rule(annotations) if ref.tier == "soft" else None
    return Policy(ref=ref, tree=replace(tree, id=ref.id), statement=statement, approval=approval)
