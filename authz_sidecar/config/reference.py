"""Every key of the configuration file, with its default: for `config show` and the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from authz_sidecar.config.tree import Tree
from authz_sidecar.strictjson import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key.

    Attributes:
        name: dotted, with `[]` behind a list, like `listeners[].address`.
        required: whether the file, the environment or a flag has to give it.
        default: as JSON, spelled as in the file; None when required and when the default is to have none.
        description: one line.
    """

    name: str
    required: bool
    default: Json
    description: str


def config_reference() -> tuple[Key, ...]:
    """All keys in the order of the file."""
    return tuple(_keys(Tree, ""))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, info in model.model_fields.items():
        section, is_list = _section(info.annotation)
        if section is None:
            yield Key(
                name=f"{prefix}{name}",
                required=info.is_required(),
                default=_default(model, name, info),
                description=info.description or "",
            )
        else:
            yield from _keys(section, f"{prefix}{name}{'[]' if is_list else ''}.")


def _default(model: type[BaseModel], name: str, info: FieldInfo) -> Json:
    if info.is_required():
        return None
    # Built without its required neighbours, only to have the default spelled by the model's own serialiser.
    lone = model.model_construct(**{name: info.get_default(call_default_factory=True, validated_data={})})
    found: Json = to_jsonable_python(lone.model_dump(mode="json", include={name})[name])
    return found


def _section(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a key opens, and whether it opens a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, Ellipsis in get_args(annotation)
    return None, False
