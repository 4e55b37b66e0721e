"""`python -m examples.crm`: run the CRM as an MCP server over mutual TLS."""

from __future__ import annotations

import argparse
import ssl
from pathlib import Path

import uvicorn

from authz_sidecar.client import SvidFiles
from authz_sidecar.client.revocations import RevocationFeed
from authz_sidecar.verifier import JwksUrl, TokenVerifier
from examples.crm.contacts import Contacts
from examples.crm.introspection import Introspection
from examples.crm.peer_certificate import PeerCertificateProtocol
from examples.crm.server import crm_server

# The name that the sidecar's own certificate holds.
SIDECAR_NAME = "authz-sidecar"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.crm", description="A small CRM as an MCP server.")
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--database", type=Path, required=True, help="SQLite file")
    parser.add_argument("--svid", type=Path, required=True, help="directory with svid.pem, svid_key.pem, bundle.pem")
    parser.add_argument("--jwks", required=True, help="URL of the sidecar's public keys")
    parser.add_argument("--issuer", required=True, help="`iss` of the tokens to accept")
    parser.add_argument("--audience", required=True, help="`aud` of the tokens to accept: this server")
    parser.add_argument("--leeway", type=int, default=10, help="seconds that the two clocks may differ")
    parser.add_argument("--introspect", metavar="TARGET", help="also ask the sidecar at TARGET about every token")
    parser.add_argument(
        "--follow", metavar="TARGET", help="follow the revocations of the sidecar at TARGET; ask it only when cut off"
    )
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    certificate, key, bundle = (arguments.svid / name for name in ("svid.pem", "svid_key.pem", "bundle.pem"))

    def asking(target: str | None) -> Introspection | None:
        if not target:
            return None
        return Introspection(target, certificate=certificate, key=key, trust_bundle=bundle, server_name=SIDECAR_NAME)

    own_svid = SvidFiles(cert=certificate, key=key, bundle=bundle)
    feed = RevocationFeed(arguments.follow, svid=own_svid) if arguments.follow else None
    verifier = TokenVerifier(
        issuer=arguments.issuer,
        audience=arguments.audience,
        keys=JwksUrl(arguments.jwks),
        leeway=arguments.leeway,
        revocation=feed,
        introspect=asking(arguments.introspect),
        introspect_when_stale=asking(arguments.follow),
    )
    contacts = Contacts(arguments.database)
    contacts.create()
    application = crm_server(contacts, verifier).streamable_http_app(stateless_http=True, json_response=True)
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=arguments.port,
        http=PeerCertificateProtocol,
        ws="none",
        ssl_certfile=certificate,
        ssl_keyfile=key,
        # Who may connect at all: any workload of the trust domain, proved by its certificate.
        ssl_ca_certs=str(bundle),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
