"""docs/platform.md says how much disk a call takes."""

from __future__ import annotations

import re

import pytest

from authz_sidecar.client import Client, Initiator, SvidFiles
from tests.support.pages import page
from tests.support.scratch import Scratch, scratch

CALLS = 300


@pytest.mark.slow
def test_a_permitted_call_takes_as_much_of_the_disk_as_the_page_says() -> None:
    claimed = re.search(r"a permitted call and its outcome take about ([0-9.]+) kB", page("docs/platform.md").text)
    assert claimed is not None
    with scratch() as place:
        place.run("authz-sidecar init dev")
        before = size_after(0, place)
        grown = size_after(CALLS, place) - before
    assert grown / CALLS == pytest.approx(float(claimed[1]) * 1000, rel=0.2)


def size_after(calls: int, place: Scratch) -> int:
    """Bytes of the database after a run of the sidecar, closed: the write-ahead log is in it then."""
    place.serve()
    svid = place.dev / "svids" / "support"
    files = SvidFiles(svid / "svid.pem", svid / "svid_key.pem", svid / "bundle.pem")
    with Client(f"unix:{place.dev}/run/authz.sock", svid=files) as client:
        task = client.start_task(
            "measure",
            initiator=Initiator("workflow", "measure"),
            tools=["crm/read_contact"],
            resources=["*"],
            ceiling="internal",
        )
        for number in range(calls):
            with task.guard("crm", "read_contact", {"contact_id": f"c-{number}"}) as grant:
                grant.result("found")
    place.stop()
    return (place.dev / "ledger" / "ledger.db").stat().st_size
