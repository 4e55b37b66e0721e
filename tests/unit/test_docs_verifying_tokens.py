"""docs/verifying-tokens.md: its example runs as printed, and its claims about imports hold."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar.token.keys import KeyRing
from authz_sidecar.verifier import Reason, x5t_s256
from tests.support.identity import Authority
from tests.support.tokens import AGENT, ARGUMENTS, KEY, Issuer

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "verifying-tokens.md").read_text()


def test_example_runs_the_permitted_call_and_nothing_else(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_bytes(KeyRing(KEY).jwks())
    example = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[0]
    calls: list[Any] = []
    scope: dict[str, Any] = {"forbidden": lambda: "403", "run": lambda *call, **about: calls.append((call, about))}
    exec(example.replace("/run/authz-sidecar/jwks.json", str(keys)), scope)  # noqa: S102
    certificate = Authority.root().leaf(AGENT).certificate.public_bytes(Encoding.DER)
    token = Issuer().token(now=datetime.now(UTC), cnf={"x5t#S256": x5t_s256(certificate)})

    assert scope["call_tool"](certificate, token, "read_contact", {"contact_id": "c-1"}) == "403"
    assert scope["call_tool"](b"junk", token, "read_contact", ARGUMENTS) == "403"
    assert calls == []
    scope["call_tool"](certificate, token, "read_contact", ARGUMENTS)
    assert calls == [(("read_contact", ARGUMENTS), {"task": "task-7", "decision": "dec-01"})]


def test_reasons_that_the_document_names_exist() -> None:
    for name in ("wrong_presenter", "keys_unavailable"):
        assert f"`{name}`" in DOCUMENT
        assert Reason(name)


def test_verifier_stands_alone() -> None:
    program = "import sys, authz_sidecar.verifier; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.split()
    third_party = {name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert {"authz_sidecar", "cryptography", "rfc8785"} <= third_party
    # cffi comes with cryptography.
    assert third_party <= {"authz_sidecar", "cryptography", "rfc8785", "cffi"}
