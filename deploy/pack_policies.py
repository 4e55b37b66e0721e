"""Pack a policy bundle's directory into one ConfigMap and the volume that unfolds it again.

ConfigMap keys have no `/`, so each file's key spells it `__`, and the volume's `items` give every key its path back.
One ConfigMap on purpose: its mount changes by one rename, so a reader never sees files of two generations.

Usage: pack_policies.py [--check] POLICIES OUTPUT_DIRECTORY
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# An object is refused by the API server above 1 MiB; base64 and metadata need their share.
MAX_BYTES = 1_000_000
_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")
_NAME = "authz-sidecar-policies"


class NotPackable(Exception):
    """The directory cannot become one ConfigMap; the message names the file and the remedy."""


def read_files(directory: Path) -> dict[str, str]:
    """Relative path -> text of every file, hidden files and directories left out. Raises NotPackable."""
    files: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        try:
            files[relative.as_posix()] = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            raise NotPackable(f"{path}: not UTF-8 text; save it as UTF-8 or keep it out of the bundle") from None
    return files


def keys_of(files: Mapping[str, str]) -> dict[str, str]:
    """ConfigMap key -> relative path. Raises NotPackable for a name that cannot be a key, and for a total too large."""
    keys: dict[str, str] = {}
    for path in files:
        key = path.replace("/", "__")
        if not _KEY.fullmatch(key):
            raise NotPackable(f"{path}: file names here are letters, digits, `.`, `_` and `-`")
        if key in keys:
            raise NotPackable(f"{path}: would overwrite {keys[key]}; rename one of them")
        keys[key] = path
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_BYTES:
        raise NotPackable(f"{size} bytes of policies; a ConfigMap holds {MAX_BYTES}; mount them from an image instead")
    return keys


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def manifests(files: Mapping[str, str]) -> dict[str, str]:
    """File name -> content of the two manifests. JSON is YAML, and needs no writer of its own. Raises NotPackable."""
    keys = keys_of(files)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _NAME},
        "data": {key: files[path] for key, path in keys.items()},
    }
    items = [{"key": key, "path": path} for key, path in keys.items()]
    patch = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "agent"},
        "spec": {
            "template": {
                # A running sidecar keeps its policies; a changed annotation rolls the pods.
                "metadata": {"annotations": {f"{_NAME}-sha256": _digest(files)}},
                "spec": {"volumes": [{"name": "policies", "configMap": {"name": _NAME, "items": items}}]},
            }
        },
    }
    note = "# Written by deploy/pack_policies.py from policies/; change those files and run `make deploy`.\n"
    return {
        "policies-configmap.yaml": note + json.dumps(config_map, indent=2, ensure_ascii=False) + "\n",
        "policies-volume.yaml": note + json.dumps(patch, indent=2) + "\n",
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the output is out of date")
    parser.add_argument("policies", type=Path)
    parser.add_argument("output", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        wanted = manifests(read_files(chosen.policies))
    except NotPackable as error:
        print(error, file=sys.stderr)
        return 1
    for name, content in wanted.items():
        target: Path = chosen.output / name
        if not chosen.check:
            target.write_text(content, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != content:
            print(f"{target} is not what {chosen.policies} packs to: make deploy", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
