"""Accept each token once. For tools whose effect must not happen twice; it costs memory, not time."""

from __future__ import annotations

import heapq
from threading import Lock

from authz_sidecar.verifier.rejection import Reason, TokenRejected


class OneShot:
    """Remembers accepted tokens until they could not be accepted any more.

    In memory and for one process: behind a load balancer each replica has its own, and a restart forgets. Share one
    instance between the verifiers of a process.
    """

    def __init__(self, *, max_tokens: int = 100_000) -> None:
        """`max_tokens`: how many to remember, about 300 bytes each. Beyond it tokens are refused, not forgotten."""
        if max_tokens < 1:
            raise ValueError(f"`max_tokens`: expected at least 1, got {max_tokens}")
        self._max_tokens = max_tokens
        self._seen: set[tuple[str, str]] = set()
        self._by_end: list[tuple[float, tuple[str, str]]] = []
        self._latest = 0.0
        self._lock = Lock()

    def redeem(self, *, issuer: str, jti: str, until: float, at: float) -> None:
        """Accept (issuer, jti) now, never again. Raises TokenRejected.

        Args:
            until: Unix time from which the token is refused as expired anyway, leeway included.
            at: the Unix time of this verification.
        """
        token = (issuer, jti)
        with self._lock:
            # A clock that was set back, or a thread that read it earlier, must not outlive what was already forgotten.
            self._latest = max(self._latest, at)
            if until <= self._latest:
                raise TokenRejected(Reason.EXPIRED, "`exp` passed while the token was being verified")
            while self._by_end and self._by_end[0][0] <= self._latest:
                self._seen.discard(heapq.heappop(self._by_end)[1])
            if token in self._seen:
                raise TokenRejected(Reason.REPLAYED, "`jti`: this token was used before")
            if len(self._seen) >= self._max_tokens:
                raise TokenRejected(Reason.OVERLOADED, f"already remembering {self._max_tokens} tokens")
            self._seen.add(token)
            heapq.heappush(self._by_end, (until, token))
