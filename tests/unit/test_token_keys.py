"""Key files, and the ring that is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from authz_sidecar.errors import OperatorError
from authz_sidecar.token.keys import KeyRing, KeyState, PublishedKey, SigningKey, load_key_ring, load_published
from authz_sidecar.verifier.jws import P256_ORDER

P256 = ec.generate_private_key(ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_saved_key_is_private_and_comes_back_the_same(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "token.pem"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).kid == key.kid
    with pytest.raises(FileExistsError):
        SigningKey.generate().save(path)
    assert SigningKey.load(path).kid == key.kid


def test_sec1_file_of_openssl_is_read(tmp_path: Path) -> None:
    sec1 = P256.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert SigningKey.load(write(tmp_path / "k", sec1)).public.public_key == P256.public_key()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_key_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(OperatorError, match=r"chmod 600"):
        SigningKey.load(write(tmp_path / "k", pem(P256), mode))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected one unencrypted private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "expected one unencrypted private key"),
        (public_pem(P256), "expected one unencrypted private key"),
        (
            P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
            "expected one unencrypted private key",
        ),
        (pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (pem(rsa.generate_private_key(65537, 2048)), "P-256"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "P-256"),
    ],
)
def test_file_that_is_not_one_p256_key_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path / "token.pem", content)
    with pytest.raises(OperatorError, match=message) as caught:
        SigningKey.load(path)
    assert str(path) in caught.value.message


def test_absent_file_and_directory_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="authz-sidecar init"):
        SigningKey.load(tmp_path / "absent")
    with pytest.raises(OperatorError, match="directory"):
        SigningKey.load(tmp_path)


def test_signatures_are_es256_in_their_low_form() -> None:
    key = SigningKey.generate()
    for number in range(32):
        message = str(number).encode()
        raw = key.sign(message)
        assert len(raw) == 64
        r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        assert s <= P256_ORDER // 2
        key.public.public_key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))


# the ring


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "published"
    directory.mkdir()
    return directory


def test_directory_publishes_next_and_retiring_keys_beside_the_active_one(tmp_path: Path, published: Path) -> None:
    upcoming, old = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    write(published / "next-2026-04.pem", public_pem(upcoming), 0o644)
    write(published / "retiring-2026-02.pem", public_pem(old), 0o644)
    write(published / ".keep", b"")
    ring = load_key_ring(write(tmp_path / "token.pem", pem(P256)), published)
    kids = [jwk["kid"] for jwk in json.loads(ring.jwks())["keys"]]
    assert kids[0] == ring.active.kid
    assert {other.state: other.key.public_key for other in ring.others} == {
        KeyState.NEXT: upcoming.public_key(),
        KeyState.RETIRING: old.public_key(),
    }
    assert set(kids) == set(ring.public_keys.keys)
    assert len(kids) == 3
    assert ring.signing_key(kids[1]) is None
    assert ring.signing_key(kids[0]) is ring.active


def test_next_key_that_became_active_may_stay_in_the_directory(tmp_path: Path, published: Path) -> None:
    write(published / "next-2026-04.pem", public_pem(P256), 0o644)
    ring = load_key_ring(write(tmp_path / "token.pem", pem(P256)), published)
    assert len(json.loads(ring.jwks())["keys"]) == 1


def test_ring_without_a_directory_publishes_the_active_key(tmp_path: Path) -> None:
    ring = load_key_ring(write(tmp_path / "token.pem", pem(P256)))
    assert [jwk["kid"] for jwk in json.loads(ring.jwks())["keys"]] == [ring.active.kid]
    assert b'"d"' not in ring.jwks()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("next-a.pem", lambda: pem(P256), "private key"),
        ("next-a.pem", lambda: b"nothing", "P-256 public key"),
        ("next-a.pem", lambda: public_pem(ec.generate_private_key(ec.SECP384R1())), "P-256 public key"),
        ("active-a.pem", lambda: public_pem(P256), "next-<name>.pem"),
        ("next-a.txt", lambda: public_pem(P256), "next-<name>.pem"),
        ("old.pem", lambda: public_pem(P256), "next-<name>.pem"),
    ],
)
def test_file_that_must_not_be_published_is_refused_by_name(
    published: Path, name: str, content: Callable[[], bytes], message: str
) -> None:
    write(published / name, content(), 0o644)
    with pytest.raises(OperatorError, match=message) as caught:
        load_published(published)
    assert name in caught.value.message


def test_absent_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="absent"):
        load_published(tmp_path / "absent")


def test_key_stands_once_in_a_ring() -> None:
    active, other = SigningKey.generate(), SigningKey.generate()
    for others in (
        [PublishedKey(active.public, KeyState.NEXT)],
        [PublishedKey(other.public, KeyState.NEXT), PublishedKey(other.public, KeyState.RETIRING)],
        [PublishedKey(other.public, KeyState.ACTIVE)],
    ):
        with pytest.raises(OperatorError, match="key ring"):
            KeyRing(active, others)
