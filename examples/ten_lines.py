"""A tool under the sidecar: it runs only when this very call is permitted, with a token for nothing else.

Run: python -m examples.ten_lines unix:/run/authz/authz.sock /run/spiffe crm.example.org:443
"""

import ssl
import sys
from http.client import HTTPSConnection

from authz_sidecar.client import Client, Grant, Initiator, SvidFiles

target, directory, crm = sys.argv[1:]
svid = SvidFiles(f"{directory}/svid.pem", f"{directory}/svid_key.pem", f"{directory}/bundle.pem")
tls = ssl.create_default_context(cafile=svid.bundle)
tls.load_cert_chain(svid.cert, svid.key)

client = Client(target, svid=svid)
alice, tools, resources = Initiator("human", "alice"), ["crm/read_contact"], ["crm:contact/*"]
task = client.start_task("answer ticket 4711", initiator=alice, tools=tools, resources=resources, ceiling="internal")


@task.guard("crm", "read_contact")
def read_contact(contact_id: str, *, grant: Grant) -> bytes:
    connection = HTTPSConnection(crm, context=tls)
    connection.request("GET", f"/contacts/{contact_id}", headers={"Authorization": f"Bearer {grant.token}"})
    return connection.getresponse().read()


print(read_contact("42").decode())
task.complete()
