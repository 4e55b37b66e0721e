"""The bundle: what its files say, cross-checked. The policies themselves are read by the PDP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from authz_sidecar.documents import DocumentError, KeyPath, Loaded, Problem, load_document, nearest
from authz_sidecar.policy.catalog import Catalog, load_catalog
from authz_sidecar.policy.data import DataClassification, load_data
from authz_sidecar.policy.entities import BundleEntities, bundle_entities
from authz_sidecar.policy.files import (
    CATALOG_FILE,
    DATA_FILE,
    SCHEMA_FILE,
    BundleFiles,
    BundleRejected,
    read_bundle,
)
from authz_sidecar.policy.manifest import Manifest

__all__ = ["Bundle", "BundleFiles", "BundleRejected", "load_bundle", "read_bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What the files say, apart from the policies, which only the PDP reads.

    Attributes:
        digest: of the files.
        files: the files.
        catalog: tools by "server/name".
        data: classification.
        agents: manifests by SPIFFE ID.
        cedar: path to text of the policy files, guardrails first.
        schema: text of the operator's part of the Cedar schema.
        entities: agents, tools and data classes as Cedar entities.
    """

    digest: str
    files: BundleFiles
    catalog: Catalog
    data: DataClassification
    agents: Mapping[str, Manifest]
    cedar: Mapping[str, str]
    schema: str
    entities: BundleEntities


def load_bundle(files: BundleFiles) -> Bundle:
    """Parse and cross-check everything but the policies. Raises BundleRejected with all problems found."""
    problems: list[Problem] = []
    catalog: Catalog | None = None
    data: DataClassification | None = None
    manifests: dict[str, Loaded[Manifest]] = {}
    missing = [path for path in (SCHEMA_FILE, CATALOG_FILE, DATA_FILE) if path not in files.files]
    problems += [Problem(file=path, message="the bundle needs this file") for path in missing]
    for path, raw in files.files.items():
        try:
            if path == CATALOG_FILE:
                catalog = load_catalog(path, raw)
            elif path == DATA_FILE:
                data = load_data(path, raw)
            elif path.startswith("agents/") and path.endswith(".yaml"):
                manifests[path] = load_document(path, raw, Manifest)
        except DocumentError as error:
            problems += error.problems
    texts = _texts(files, problems)
    if catalog is not None and data is not None:
        problems += _cross_check(catalog, data, manifests)
    if problems or catalog is None or data is None:
        raise BundleRejected(problems)
    agents = {loaded.model.agent: loaded.model for loaded in manifests.values()}
    return Bundle(
        digest=files.digest,
        files=files,
        catalog=catalog,
        data=data,
        agents=MappingProxyType(agents),
        cedar=MappingProxyType({path: text for path, text in texts.items() if path.endswith(".cedar")}),
        schema=texts[SCHEMA_FILE],
        entities=bundle_entities(catalog, data, agents),
    )


def _texts(files: BundleFiles, problems: list[Problem]) -> dict[str, str]:
    """The Cedar texts. Characters that hide or reorder what a reviewer sees are refused, in comments too.

    Every file of a bundle is text, because its content is recorded when it is activated.
    """
    texts: dict[str, str] = {}
    reported = {problem.file for problem in problems}
    for path, raw in files.files.items():
        try:
            text = raw.decode("utf-8", errors="strict")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            column = error.start - raw.rfind(b"\n", 0, error.start)
            if path not in reported:
                message = "not UTF-8; save the file as UTF-8"
                problems.append(Problem(file=path, line=line, column=column, message=message))
            continue
        if path != SCHEMA_FILE and not (path.endswith(".cedar") and path.startswith(("guardrails/", "rules/"))):
            continue
        for number, content in enumerate(text.split("\n"), start=1):
            for column, char in enumerate(content, start=1):
                if not char.isprintable() and char not in "\t\r":
                    message = f"a character that does not show (U+{ord(char):04X}); remove it or write it as an escape"
                    problems.append(Problem(file=path, line=number, column=column, message=message))
        texts[path] = text
    return texts


def _cross_check(
    catalog: Catalog, data: DataClassification, manifests: Mapping[str, Loaded[Manifest]]
) -> list[Problem]:
    problems: list[Problem] = []
    first: dict[str, str] = {}
    tools, classes, audiences = list(catalog.tools), list(data.classes), catalog.audiences
    for path, loaded in manifests.items():
        manifest = loaded.model
        found: list[tuple[KeyPath, str]] = []
        if manifest.agent in first:
            found.append((("agent",), f"agent `{manifest.agent}` already has a manifest in {first[manifest.agent]}"))
        first.setdefault(manifest.agent, path)
        if manifest.boundary not in data.classes:
            message = f"unknown data class `{manifest.boundary}`{nearest(manifest.boundary, classes)}"
            found.append((("boundary",), message))
        bound = {binding.audience for binding in manifest.credential_bindings}
        for index, name in enumerate(manifest.tools):
            tool = catalog.tools.get(name)
            if tool is None:
                found.append((("tools", index), f"unknown tool `{name}`{nearest(name, tools)}"))
            elif tool.audience not in bound:
                message = f"tool `{name}` has audience `{tool.audience}`, which `credential_bindings` does not list"
                found.append((("tools", index), message))
        for index, binding in enumerate(manifest.credential_bindings):
            if binding.audience not in audiences:
                message = f"no tool has this audience{nearest(binding.audience, sorted(audiences))}"
                found.append((("credential_bindings", index, "audience"), message))
        problems += [loaded.document.problem(at, message) for at, message in found]
    return problems
