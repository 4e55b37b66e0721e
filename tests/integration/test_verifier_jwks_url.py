"""Keys over HTTP, against a real server on the loopback interface that misbehaves on request."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from authz_sidecar.token.keys import SigningKey
from authz_sidecar.verifier import JwksUrl, KeysUnavailable
from tests.support.tokens import KEY

OTHER = SigningKey.generate()


class Endpoint:
    """A JWKS endpoint. `answer` is replaced to misbehave; `requests` counts."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests = 0
        self.keys = [KEY]
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.publish
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests += 1
                endpoint.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.block_on_close = True
        self._server.daemon_threads = False
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/.well-known/jwks.json"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def publish(self, request: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"keys": [key.public.to_jwk() for key in self.keys]}).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    running = Endpoint()
    yield running
    running.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def unavailable(request: BaseHTTPRequestHandler) -> None:
    request.send_response(503)
    request.end_headers()


def test_keys_are_fetched_once_and_then_kept(endpoint: Endpoint, clock: Clock) -> None:
    source = JwksUrl(endpoint.url, monotonic=clock)
    for _ in range(3):
        clock.seconds += 49
        assert source.find(KEY.kid) is not None
    assert endpoint.requests == 1


def test_unknown_key_is_looked_for_at_most_every_30_seconds(endpoint: Endpoint, clock: Clock) -> None:
    source = JwksUrl(endpoint.url, monotonic=clock)
    assert source.find(KEY.kid) is not None
    endpoint.keys = [KEY, OTHER]
    for _ in range(5):
        assert source.find(OTHER.kid) is None
    assert endpoint.requests == 1
    clock.seconds += 30
    assert source.find(OTHER.kid) is not None
    assert endpoint.requests == 2


def test_withdrawn_key_is_gone_with_the_next_fetch_and_after_300_seconds_at_the_latest(
    endpoint: Endpoint, clock: Clock
) -> None:
    source = JwksUrl(endpoint.url, monotonic=clock)
    assert source.find(KEY.kid) is not None
    endpoint.keys = [OTHER]
    clock.seconds += 150
    assert source.find(KEY.kid) is not None
    clock.seconds += 1
    assert source.find(KEY.kid) is None
    assert endpoint.requests == 2


def test_outage_is_bridged_for_300_seconds_and_retried_every_2(endpoint: Endpoint, clock: Clock) -> None:
    source = JwksUrl(endpoint.url, monotonic=clock)
    assert source.find(KEY.kid) is not None
    endpoint.answer = unavailable
    clock.seconds += 300
    assert source.find(KEY.kid) is not None
    assert source.last_error is not None
    clock.seconds += 1
    for _ in range(3):
        with pytest.raises(KeysUnavailable, match="503"):
            source.find(KEY.kid)
    assert endpoint.requests == 2
    clock.seconds += 2
    with pytest.raises(KeysUnavailable):
        source.find(KEY.kid)
    assert endpoint.requests == 3
    endpoint.answer = endpoint.publish
    clock.seconds += 2
    assert source.find(KEY.kid) is not None


def test_refresh_fetches_now_and_says_when_it_cannot(endpoint: Endpoint, clock: Clock) -> None:
    source = JwksUrl(endpoint.url, monotonic=clock)
    source.refresh()
    source.refresh()
    assert endpoint.requests == 2
    endpoint.answer = unavailable
    with pytest.raises(KeysUnavailable, match="503"):
        source.refresh()
    assert source.find(KEY.kid) is not None


def test_many_threads_share_one_fetch(endpoint: Endpoint) -> None:
    def slowly(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.1)
        endpoint.publish(request)

    endpoint.answer = slowly
    source = JwksUrl(endpoint.url)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: source.find(KEY.kid), range(16)))
    assert all(found)
    assert endpoint.requests == 1


def redirect(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", request.path + "?elsewhere")
    request.end_headers()


def too_long(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    with contextlib.suppress(OSError):  # until the other side has had enough
        while True:
            request.wfile.write(b" " * 8192)


def damaged(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(b'{"keys":[],"keys":[]}')


def not_http(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0-nothing\r\n\r\n")


def trickle(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(30):
        try:
            request.wfile.write(b" ")
        except OSError:
            return
        time.sleep(0.05)


def silent(request: BaseHTTPRequestHandler) -> None:
    time.sleep(1.2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (redirect, "302; redirects are not followed"),
        (too_long, "longer than 65536"),
        (damaged, "duplicate"),
        (not_http, "SSH"),
        (trickle, "took longer"),
        (silent, "timed out"),
    ],
)
def test_misbehaving_endpoint_gives_no_keys(
    endpoint: Endpoint, answer: Callable[[BaseHTTPRequestHandler], None], message: str
) -> None:
    endpoint.answer = answer
    with pytest.raises(KeysUnavailable, match=message):
        JwksUrl(endpoint.url, timeout=0.8).find(KEY.kid)
    assert endpoint.requests == 1


def test_endpoint_that_is_not_there_gives_no_keys(endpoint: Endpoint) -> None:
    endpoint.close()
    with pytest.raises(KeysUnavailable, match="refused"):
        JwksUrl(endpoint.url).find(KEY.kid)


def test_proxy_of_the_environment_is_not_used(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert JwksUrl(endpoint.url).find(KEY.kid) is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://authz.example.org/jwks.json",
        "http://localhost:8080/jwks.json",
        "http://10.0.0.1/jwks.json",
        "http://127.0.0.1.evil.example/jwks.json",
        "http://user@127.0.0.1/jwks.json",
        "https://user:secret@authz.example.org/jwks.json",
        "https://authz.example.org/jwks.json#keys",
        "https:///jwks.json",
        "file:///etc/jwks.json",
        "ftp://127.0.0.1/jwks.json",
        "https://authz.example.org:99999/",
        "//127.0.0.1/",
        "",
    ],
)
def test_address_that_could_be_answered_by_somebody_else_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"url|[Pp]ort"):
        JwksUrl(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/a", "http://127.8.9.1/a", "http://[::1]:8080/a", "https://a.example/b?c"]
)
def test_loopback_and_https_addresses_are_accepted(url: str) -> None:
    JwksUrl(url)


def authority(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority: (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "jwks")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def test_https_trusts_the_given_authority_and_no_other(tmp_path: Path) -> None:
    certificate, key = authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    endpoint = Endpoint(server)
    try:
        with pytest.raises(KeysUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            JwksUrl(endpoint.url).find(KEY.kid)
        trusting = ssl.create_default_context(cafile=certificate)
        assert JwksUrl(endpoint.url, tls=trusting).find(KEY.kid) is not None
    finally:
        endpoint.close()


def test_tls_that_verifies_nothing_is_refused() -> None:
    blind = ssl.create_default_context()
    blind.check_hostname = False
    with pytest.raises(ValueError, match="host names"):
        JwksUrl("https://authz.example.org/", tls=blind)
