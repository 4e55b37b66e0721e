"""The auditor's part: no sidecar runs, the evidence speaks."""

from __future__ import annotations

from pathlib import Path

from examples.demo.narration import Narration
from examples.demo.scenes import Evidence
from examples.demo.stage import CommandResult, Stage, authz_sidecar
from examples.demo.tampering import change_one_byte

_VERIFIED, _TAMPERED = 0, 4


def keep_checkpoint(stage: Stage, outside: Path, tell: Narration) -> None:
    """Take the newest signed checkpoint out of the sidecar's reach, as an auditor would from time to time."""
    tell.step(
        "The auditor keeps a checkpoint",
        "A signed statement of the ledger's size and Merkle root. What it covers cannot be rewritten unnoticed.",
    )
    result = authz_sidecar("audit", "checkpoint", f"--ledger={stage.ledger}")
    outside.write_text(result.output)
    lines = result.output.splitlines()
    tell.claim(
        "the sidecar has signed a checkpoint over the records so far",
        result.exit_code == 0 and len(lines) >= 5 and int(lines[1]) > 0,
        seen=f"{lines[1]} entries of {lines[0]}" if len(lines) > 1 else result.errors,
    )


def read_timeline(stage: Stage, evidence: Evidence, tell: Narration) -> None:
    """Everything that happened in the first task, from the ledger of a sidecar that is gone."""
    tell.step("The timeline of the task, read without a sidecar")
    command = ("audit", "timeline", f"--task={evidence.task_id}", f"--ledger={stage.ledger}")
    tell.show(authz_sidecar(*command).output)
    result = authz_sidecar(*command, "--output=json")
    records = [entry["record"] for entry in result.document["records"]] if result.exit_code == 0 else []
    decisions = [record["outcome"] for record in records if record["type"] == "decision"]
    tell.claim(
        "every decision of the task is there, in order: three permits and three denials",
        decisions == ["permit", "deny", "deny", "permit", "permit", "deny"],
        seen=", ".join(decisions) or result.errors,
    )
    kinds = [record["type"] for record in records]
    tell.claim(
        "so are its start, its end, and the outcome of every permitted call",
        kinds.count("task_started") == kinds.count("task_completed") == 1
        and kinds.count("outcome") == 3
        and result.document["missing_outcomes"] == [],
        seen=f"{len(records)} records, {kinds.count('outcome')} outcomes reported, none missing",
    )


def verify_ledger(stage: Stage, outside: Path, tell: Narration) -> None:
    """Recompute the ledger and compare it with the checkpoint from outside."""
    tell.step("The ledger is verified", "Every hash, signature and projection is recomputed from the entries.")
    result = _verify(stage, stage.ledger, outside)
    document = result.document if result.exit_code == _VERIFIED else {}
    tell.claim(
        "the ledger is whole, and extends the checkpoint that the auditor kept",
        document.get("result") == "verified",
        seen=f"{document.get('size')} entries, {document.get('anchored_size')} of them under the kept checkpoint",
    )


def tamper_and_verify(stage: Stage, evidence: Evidence, outside: Path, tell: Narration) -> None:
    """Change one byte in a copy of the ledger: the record of the read now says another contact."""
    found = authz_sidecar("audit", "show", evidence.allowed_read, f"--ledger={stage.ledger}", "--output=json").document
    entry, resource = int(found["index"]), found["record"]["resource"]["id"]
    altered = resource[:-1] + chr(ord(resource[-1]) + 1)
    copy = stage.directory / "tampered"
    change_one_byte(stage.ledger, copy, entry=entry, written=f'"id":"{resource}"', altered=f'"id":"{altered}"')
    tell.step(
        "One byte is changed in a copy of the ledger",
        f"Entry {entry} now says that the agent read {altered}; it had read {resource}.",
    )
    result = _verify(stage, copy, outside)
    document = result.document if result.exit_code == _TAMPERED else {}
    tell.claim(
        "verification fails and names the entry",
        document.get("result") == "tampered" and document.get("first_bad_index") == entry,
        seen=f"exit code {result.exit_code}: {document.get('detail', result.errors)}",
    )


def _verify(stage: Stage, ledger: Path, outside: Path) -> CommandResult:
    return authz_sidecar(
        *("audit", "verify", f"--vkey={stage.vkey}", f"--checkpoint={outside}"),
        *(f"--ledger={ledger}", "--output=json"),
    )
