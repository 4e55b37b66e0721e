"""Data classification: which class a resource has and who owns it. What nobody classified has the worst class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from authz_sidecar.documents import DocumentError, DocumentModel, Problem, load_document, nearest
from authz_sidecar.policy.pattern import check_pattern, matches

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


def check_name(text: str) -> str:
    """A name of a class, collection, group or environment. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError("expected a name of lower-case letters, digits, `_` and `-`, starting with a letter")
    return text


Name = Annotated[str, AfterValidator(check_name)]
Pattern = Annotated[str, AfterValidator(check_pattern)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What is known about a resource.

    Attributes:
        name: the data class.
        level: its rank, 0 for the lowest.
        owner: who answers for the data; empty when unknown.
        known: False when no pattern matched and the worst class was assumed.
        collections: collections that the resource belongs to, sorted.
    """

    name: str
    level: int
    owner: str
    known: bool
    collections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceClass:
    """One line of the classification: resources matching `pattern` have class `class_name`."""

    pattern: str
    class_name: str
    level: int
    owner: str
    collections: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DataClassification:
    """The ordered classes and the patterns.

    Attributes:
        classes: class name to level, lowest first.
        rules: as written in the file; their order has no meaning.
    """

    classes: Mapping[str, int]
    rules: tuple[ResourceClass, ...]

    @property
    def collections(self) -> frozenset[str]:
        return frozenset(name for rule in self.rules for name in rule.collections)

    def level(self, name: str) -> int | None:
        """The rank of a class, None for a class that does not exist."""
        return self.classes.get(name)

    def classify(self, resource_id: str) -> Classification:
        """The class of a resource: the highest among the matching patterns, the worst there is when none matches.

        Highest instead of first or most specific, so that no line can lower what another line protects.
        """
        found = [rule for rule in self.rules if matches(rule.pattern, resource_id)]
        if not found:
            worst = max(self.classes, key=self.classes.__getitem__)
            return Classification(name=worst, level=self.classes[worst], owner="", known=False)
        top = max(found, key=lambda rule: rule.level)
        return Classification(
            name=top.class_name,
            level=top.level,
            owner=top.owner,
            known=True,
            collections=tuple(sorted({name for rule in found for name in rule.collections})),
        )


class _ResourceLine(DocumentModel):
    pattern: Pattern
    class_: Name = Field(alias="class")
    owner: str = Field(min_length=1, max_length=200)
    collections: list[Name] = Field(default_factory=list)


class _DataFile(DocumentModel):
    version: Literal[1]
    classes: list[Name] = Field(min_length=1, max_length=16)
    resources: list[_ResourceLine]


def load_data(label: str, raw: bytes) -> DataClassification:
    """Parse `catalog/data.yaml`. Raises DocumentError."""
    loaded = load_document(label, raw, _DataFile)
    file, document = loaded.model, loaded.document
    problems: list[Problem] = []
    classes: dict[str, int] = {}
    for level, name in enumerate(file.classes):
        if name in classes:
            problems.append(document.problem(("classes", level), f"class `{name}` is listed twice"))
        classes.setdefault(name, level)
    rules: list[ResourceClass] = []
    seen: set[str] = set()
    for index, line in enumerate(file.resources):
        if line.class_ not in classes:
            message = f"unknown class `{line.class_}`{nearest(line.class_, list(classes))}"
            problems.append(document.problem(("resources", index, "class"), message))
        if line.pattern in seen:
            message = f"pattern `{line.pattern}` is listed twice"
            problems.append(document.problem(("resources", index, "pattern"), message))
        seen.add(line.pattern)
        rules.append(
            ResourceClass(
                pattern=line.pattern,
                class_name=line.class_,
                level=classes.get(line.class_, 0),
                owner=line.owner,
                collections=tuple(line.collections),
            )
        )
    if problems:
        raise DocumentError(problems)
    return DataClassification(MappingProxyType(classes), tuple(rules))
