from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Run by the throw-away interpreter: imports the client and every generated module, and sends a message round.
PROBE = """
import importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import google.protobuf
import authz_sidecar.v1
names = sorted(module.name for module in pkgutil.iter_modules(authz_sidecar.v1.__path__))
for name in names:
    importlib.import_module(f"authz_sidecar.v1.{name}")
importlib.import_module("authz_sidecar.client")
request = importlib.import_module("authz_sidecar.v1.authorization_pb2").AuthorizeRequest
sent = request(request_id="r-1", task_id="t-1")
assert request.FromString(sent.SerializeToString()) == sent
print(json.dumps({"protobuf": google.protobuf.__version__, "modules": names}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("requirements", "expected"), [("client-oldest", "5.29."), ("client-newest", "7.")])
def test_client_loads_under_both_ends_of_its_protobuf_range(tmp_path: Path, requirements: str, expected: str) -> None:
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", str(environment))
    python = str(environment / "bin" / "python")
    pinned = str(ROOT / "requirements" / f"{requirements}.txt")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", pinned)

    # Warnings are errors: the runtime announces by a warning what its next major version will refuse.
    found = json.loads(run(python, "-I", "-W", "error", "-c", PROBE, str(ROOT)))

    assert found["protobuf"].startswith(expected)
    protos = {path.stem for path in (ROOT / "proto" / "authz_sidecar" / "v1").glob("*.proto")}
    assert set(found["modules"]) == {f"{name}_pb2{suffix}" for name in protos for suffix in ("", "_grpc")}


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout
