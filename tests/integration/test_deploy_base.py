from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz_sidecar.config import Config
from authz_sidecar.config.values import UnixAddress
from deploy.pack_policies import MAX_BYTES, NotPackable, main, manifests, read_files

BASE = Path(__file__).resolve().parents[2] / "deploy" / "base"


def container(name: str) -> dict[str, Any]:
    spec = yaml.safe_load((BASE / "statefulset.yaml").read_text())["spec"]["template"]["spec"]
    (found,) = [entry for entry in spec["initContainers"] + spec["containers"] if entry["name"] == name]
    assert isinstance(found, dict)
    return found


def test_the_pods_configuration_is_valid_and_every_path_in_it_is_mounted() -> None:
    config = Config.load(BASE / "config.yaml", {}, check_paths=False)
    mounts: dict[str, bool] = {
        mount["mountPath"]: mount.get("readOnly", False) for mount in container("authz-sidecar")["volumeMounts"]
    }

    def mount_of(path: Path) -> str:
        (found,) = [mount for mount in mounts if path.is_relative_to(mount)]
        return found

    assert config.identity.svid is not None
    for path in (
        config.identity.svid.certificate,
        config.identity.svid.private_key,
        *config.identity.bundles.values(),
        config.policy.directory,
        config.ledger.checkpoint_key,
        config.token.signing_key,
    ):
        assert mounts[mount_of(path)] is True, path
    address = config.listeners[0].address
    assert isinstance(address, UnixAddress)
    assert mounts[mount_of(address.path)] is False
    assert mounts[mount_of(config.ledger.directory)] is False
    # Not right in the volume, which is open to every container that mounts it.
    assert address.path.parent.parent in {Path(m["mountPath"]) for m in container("agent")["volumeMounts"]}
    assert config.http.address.port == container("authz-sidecar")["ports"][0]["containerPort"]


@pytest.mark.parametrize("name", ["spiffe-helper", "keys", "authz-sidecar", "agent"])
def test_every_container_is_confined(name: str) -> None:
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_agent_waits_for_a_ready_sidecar() -> None:
    sidecar = container("authz-sidecar")
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"
    # Liveness on readiness would restart a sidecar that waits for its identity.
    assert sidecar["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_a_mounted_bundle_has_the_files_of_its_directory(tmp_path: Path) -> None:
    bundle = {"schema.cedarschema": "", "rules/a.cedar": "permit(…);\n", "catalog/data.yaml": "a: 'ü'\n"}
    for path, text in bundle.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").touch()
    packed = manifests(read_files(tmp_path))
    data = yaml.safe_load(packed["policies-configmap.yaml"])["data"]
    patch = yaml.safe_load(packed["policies-volume.yaml"])
    (volume,) = patch["spec"]["template"]["spec"]["volumes"]
    assert {item["path"]: data[item["key"]] for item in volume["configMap"]["items"]} == bundle


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"rules/a b.cedar": ""}, "rules/a b.cedar: file names here are letters"),
        ({"a/b.cedar": "", "a__b.cedar": ""}, "a__b.cedar: would overwrite a/b.cedar; rename one of them"),
        ({"a.cedar": "x" * (MAX_BYTES + 1)}, "mount them from an image instead"),
    ],
)
def test_what_a_config_map_cannot_hold_is_refused_with_a_remedy(files: dict[str, str], message: str) -> None:
    with pytest.raises(NotPackable, match=message):
        manifests(files)


def test_the_check_fails_when_policies_changed_after_packing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies, output = tmp_path / "policies", tmp_path / "base"
    policies.mkdir()
    output.mkdir()
    (policies / "a.cedar").write_text("1")
    assert main([str(policies), str(output)]) == 0
    assert main(["--check", str(policies), str(output)]) == 0
    (policies / "a.cedar").write_text("2")
    assert main(["--check", str(policies), str(output)]) == 1
    assert "make deploy" in capsys.readouterr().err
    volume = (output / "policies-volume.yaml").read_text()
    assert main([str(policies), str(output)]) == 0
    # Same file names, other content: the pods have to roll all the same.
    assert (output / "policies-volume.yaml").read_text() != volume
    packed = (output / "policies-configmap.yaml").read_text().partition("\n")[2]
    assert json.loads(packed)["data"] == {"a.cedar": "2"}
