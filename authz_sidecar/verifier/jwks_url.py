"""Keys from the sidecar's JWKS endpoint, over HTTPS or over plain HTTP on the loopback interface.

The address comes from the tool server's configuration, never from a token (RFC 8725 section 3.10). No redirects are
followed, and proxy settings of the environment are not used: whoever could redirect the fetch would choose the keys.
"""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from urllib.parse import SplitResult, urlsplit

from authz_sidecar.verifier.keys import MAX_JWKS_BYTES, JwkSet, KeysUnavailable, MalformedJwks, VerificationKey

LIFETIME_SECONDS = 300.0
UNKNOWN_KID_INTERVAL_SECONDS = 30.0
RETRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Fetched:
    keys: JwkSet
    at: float


class JwksUrl:
    """A JWK Set behind a URL. A `KeySource`.

    Fetched when first needed and again after half of its life of 300 s; an unknown `kid` fetches early, at most every
    30 s. When a fetch fails the keys count until their 300 s are over, then nothing is accepted; the next attempt comes
    after 2 s. A fetch runs on the calling thread; other threads go on with the keys they have. Event loops should call
    `refresh()` from a thread every two minutes, which keeps `find` from fetching for anything but an unknown `kid`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 2.0,
        tls: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            url: `https://…`, or `http://` with 127.0.0.0/8 or [::1] as the host, written as an address.
            timeout: seconds to wait for the endpoint at each step, and for the whole answer from the request on.
            tls: for a private CA; the default trusts the system's. It must verify certificates and names.

        Raises ValueError for any other URL, or for a TLS context that does not verify.
        """
        self._url = _checked(url)
        if tls is not None and not (tls.verify_mode is ssl.CERT_REQUIRED and tls.check_hostname):
            raise ValueError("`tls`: expected a context that requires certificates and checks host names")
        self._tls = tls
        self._timeout = timeout
        self._monotonic = monotonic
        self._fetching = Lock()
        self._fetched: _Fetched | None = None
        self._next_attempt = float("-inf")
        self.last_error: str | None = None
        """Why the last fetch failed; None when it succeeded."""

    def find(self, kid: str) -> VerificationKey | None:
        """See `KeySource`. Raises KeysUnavailable."""
        fetched = self._fresh()
        if fetched is not None and (key := fetched.keys.find(kid)):
            if self._monotonic() - fetched.at > LIFETIME_SECONDS / 2 and self._fetching.acquire(blocking=False):
                try:
                    self._attempt()
                finally:
                    self._fetching.release()
                return (self._fresh() or fetched).keys.find(kid)
            return key
        with self._fetching:
            # Another thread may have fetched while this one waited; `_attempt` then does nothing.
            self._attempt()
        fetched = self._fresh()
        if fetched is None:
            raise KeysUnavailable(f"jwks `{self._url.geturl()}`: {self.last_error}")
        return fetched.keys.find(kid)

    def refresh(self) -> None:
        """Fetch now. Raises KeysUnavailable when that fails; older keys then go on counting until their time is up."""
        with self._fetching:
            self._next_attempt = float("-inf")
            self._attempt()
            if self.last_error is not None:
                raise KeysUnavailable(f"jwks `{self._url.geturl()}`: {self.last_error}")

    def _fresh(self) -> _Fetched | None:
        fetched = self._fetched
        if fetched is None or self._monotonic() - fetched.at > LIFETIME_SECONDS:
            return None
        return fetched

    def _attempt(self) -> None:
        """Fetch unless an attempt was made too recently. The caller holds `_fetching`."""
        started = self._monotonic()
        if started < self._next_attempt:
            return
        try:
            keys = JwkSet.parse(self._fetch(started + self._timeout))
        except (OSError, http.client.HTTPException, MalformedJwks, KeysUnavailable) as error:
            self.last_error = str(error) or type(error).__name__
            self._next_attempt = self._monotonic() + RETRY_SECONDS
            return
        # Dated from before the request: the answer may be as old as that.
        self._fetched, self.last_error = _Fetched(keys, started), None
        self._next_attempt = started + UNKNOWN_KID_INTERVAL_SECONDS

    def _fetch(self, deadline: float) -> bytes:
        connection = self._connection()
        try:
            path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
            connection.request("GET", path, headers={"Accept": "application/json", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise KeysUnavailable(f"expected status 200, got {response.status}; redirects are not followed")
            return self._body(response, deadline)
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, self._url.port, timeout=self._timeout)
        tls = self._tls or ssl.create_default_context()
        return http.client.HTTPSConnection(host, self._url.port, timeout=self._timeout, context=tls)

    def _body(self, response: http.client.HTTPResponse, deadline: float) -> bytes:
        """Bounded in size and, against an answer that trickles, in time."""
        raw = b""
        while chunk := response.read1(8192):
            raw += chunk
            if len(raw) > MAX_JWKS_BYTES:
                raise KeysUnavailable(f"the answer is longer than {MAX_JWKS_BYTES} bytes")
            if self._monotonic() > deadline:
                raise KeysUnavailable(f"the answer took longer than {self._timeout:g} s")
        return raw


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None or parts.fragment or not parts.hostname:
        raise ValueError("jwks url: expected a host, no user or password, and no fragment")
    if not 0 < (parts.port or 443) < 65536:
        raise ValueError("jwks url: port out of range")
    if parts.scheme == "https":
        return parts
    if parts.scheme == "http" and _is_loopback(parts.hostname):
        return parts
    raise ValueError(
        f"jwks url `{url}`: expected https, or http with a loopback address such as http://127.0.0.1:8080/ "
        "(a name is not enough: it could resolve to anything)"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
