"""How long a token outlives its task at a tool server that follows the feed. Run: python -m bench.revocation

The clock starts when the agent has the answer to `CompleteTask` and stops when the verifier refuses; a verifier
that knew before the agent did counts as zero. Between both stand the feed's thread and the agent's own, in one process.
"""

from __future__ import annotations

import statistics
import time

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar.client.revocations import RevocationFeed
from authz_sidecar.v1 import task_pb2, token_pb2
from authz_sidecar.verifier import JwkSet, Presenter, Reason, TokenRejected, TokenVerifier
from tests.support.sidecar import AUDIENCE, CONTACT, READ, Caller, World, running, world

_ISSUER = "https://authz.example.org"
_GIVE_UP_SECONDS = 10


def run(*, rounds: int = 100) -> dict[str, float]:
    """Milliseconds, over `rounds` tasks, each with one token that the verifier had accepted a moment before."""
    with world() as made, running(made), Caller(made) as agent:
        feed = RevocationFeed(f"unix:{made.socket}", svid=made.svid_files("crm"))
        with feed:
            if not feed.wait_until_fresh(_GIVE_UP_SECONDS):
                raise RuntimeError("the feed did not come up")
            keys = JwkSet.parse(agent.tokens.GetJwks(token_pb2.GetJwksRequest(), timeout=20).jwks_json)
            verifier = TokenVerifier(issuer=_ISSUER, audience=AUDIENCE, keys=keys, revocation=feed)
            delays = [_outlived(agent, verifier, _presenter(made)) * 1000 for _ in range(rounds)]
    ordered = sorted(delays)
    return {
        "p50 ms": statistics.median(ordered),
        "p99 ms": ordered[int(0.99 * (len(ordered) - 1))],
        "max ms": ordered[-1],
        "refused before the answer": sum(delay == 0 for delay in delays) / len(delays),
        "rounds": float(rounds),
    }


def _outlived(agent: Caller, verifier: TokenVerifier, presenter: Presenter) -> float:
    """Seconds from the answer to the refusal."""
    task_id = agent.start_task()
    token = agent.authorize(task_id).token.value
    if _revoked(verifier, presenter, token):
        raise RuntimeError("the token was refused before its task ended")
    agent.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=task_id), timeout=20)
    answered = time.perf_counter()
    if _revoked(verifier, presenter, token):
        return 0.0
    while not _revoked(verifier, presenter, token):
        if time.perf_counter() - answered > _GIVE_UP_SECONDS:
            raise RuntimeError("the token outlived its task")
    return time.perf_counter() - answered


def _revoked(verifier: TokenVerifier, presenter: Presenter, token: str) -> bool:
    try:
        verifier.verify(token, presenter=presenter, tool=READ, arguments=CONTACT, resource=None)
    except TokenRejected as rejected:
        if rejected.reason is not Reason.REVOKED:
            raise
        return True
    return False


def _presenter(made: World) -> Presenter:
    leaf = x509.load_pem_x509_certificate((made.svid("support") / "svid.pem").read_bytes())
    return Presenter.from_certificate(leaf.public_bytes(Encoding.DER))


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:28} {value:.2f}")
