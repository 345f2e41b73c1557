"""TLS and mutual TLS on loopback, with an authority that the tests make themselves."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).parent))

from test_transport import a_learner
from transport_builders import some_weights

from pirl.errors import ConfigError, EnvironmentNotReadyError, ExitCode

pytestmark = pytest.mark.integration

NO_TLS = {"tls_cert": None, "tls_key": None, "tls_ca": None}


@dataclass(frozen=True)
class Authority:
    """Signs certificates into a folder of its own."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, folder: Path) -> Authority:
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        own = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
        certificate = (
            builder(own, own, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(folder, key, certificate)

    @property
    def file(self) -> str:
        return str(self.folder / "ca.pem")

    def sign(self, role: str, *, address: str = "127.0.0.1", age_days: int = 1) -> dict[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, role)])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        certificate = (
            builder(name, self.certificate.subject, key, age_days=age_days)
            .add_extension(alternative, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        cert, secret = self.folder / f"{role}.pem", self.folder / f"{role}.key"
        cert.write_bytes(certificate.public_bytes(pem))
        secret.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return {"tls_cert": str(cert), "tls_key": str(secret)}


def builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, age_days: int = 1
) -> x509.CertificateBuilder:
    start = datetime.now(UTC) - timedelta(days=age_days)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=2))
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls") / "foreign")


def test_tls_carries_the_link_of_an_actor_that_trusts_the_authority(ours: Authority):
    with a_learner(**ours.sign("learner")) as learner:
        learner.server.publish(0, some_weights())
        with learner.link(**NO_TLS | {"tls_cert": ours.file}).connect(20) as link:
            assert link.wait_for_version(0, 10) is not None


def test_with_mutual_tls_both_sides_show_a_certificate(ours: Authority):
    with a_learner(**ours.sign("learner"), tls_ca=ours.file) as learner:
        learner.server.publish(0, some_weights())
        with learner.link(**ours.sign("actor"), tls_ca=ours.file).connect(20) as link:
            assert link.wait_for_version(0, 10) is not None


type Settings = Callable[[Authority, Authority], dict[str, Any]]

WRONG: dict[str, tuple[Settings, Settings, str]] = {
    "actor without TLS": (
        lambda ours, _: ours.sign("learner"),
        lambda *_: NO_TLS,
        "speaks TLS",
    ),
    "learner without TLS": (
        lambda *_: {},
        lambda ours, _: NO_TLS | {"tls_cert": ours.file},
        "does not speak TLS",
    ),
    "foreign authority": (
        lambda ours, _: ours.sign("learner"),
        lambda _, foreign: NO_TLS | {"tls_cert": foreign.file},
        "not trusted",
    ),
    "another name": (
        lambda ours, _: ours.sign("learner", address="127.0.0.9"),
        lambda ours, _: NO_TLS | {"tls_cert": ours.file},
        "not trusted",
    ),
    "expired": (
        lambda ours, _: ours.sign("learner", age_days=9),
        lambda ours, _: NO_TLS | {"tls_cert": ours.file},
        "expired",
    ),
    "actor without a certificate of its own": (
        lambda ours, _: {**ours.sign("learner"), "tls_ca": ours.file},
        lambda ours, _: NO_TLS | {"tls_ca": ours.file},
        "wants a certificate|certificate required",
    ),
    "actor with a foreign certificate": (
        lambda ours, _: {**ours.sign("learner"), "tls_ca": ours.file},
        lambda ours, foreign: {**foreign.sign("actor"), "tls_ca": ours.file},
        "wants a certificate|unknown ca",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_tls_that_fails_says_so_at_once_and_not_at_the_deadline(
    name: str, ours: Authority, foreign: Authority
):
    of_learner, of_actor, reason = WRONG[name]
    with a_learner(**of_learner(ours, foreign)) as learner:
        start = time.monotonic()
        with pytest.raises(EnvironmentNotReadyError, match=rf"(?i)TLS with .*({reason})") as caught:
            learner.link(**of_actor(ours, foreign)).connect(120)
        assert time.monotonic() - start < 30
        assert caught.value.exit_code == ExitCode.NOT_READY
        assert learner.server.alive_ranks() == []


def client_hello() -> bytes:
    """What a TLS client says first."""
    said = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), said, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return said.read()


HALF_OPEN = {
    "nothing": b"",
    "half of a hello": client_hello()[:100],
    "a hello and no more": client_hello(),
    "plain text": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("said", HALF_OPEN)
@pytest.mark.parametrize("is_mutual", [False, True], ids=["tls", "mutual tls"])
def test_connections_that_never_finish_their_handshake_keep_no_actor_out(
    said: str, is_mutual: bool, ours: Authority
):
    authority = {"tls_ca": ours.file}
    of_learner = ours.sign("learner") | (authority if is_mutual else {})
    of_actor = NO_TLS | authority | (ours.sign("actor") if is_mutual else {})
    with a_learner(**of_learner) as learner, contextlib.ExitStack() as stack:
        learner.server.publish(0, some_weights())
        with learner.link(**of_actor).connect(20) as first:
            assert first.wait_for_version(0, 20) is not None
        threads = psutil.Process().num_threads()
        for _ in range(200):
            address = ("127.0.0.1", learner.server.port)
            peer = stack.enter_context(socket.create_connection(address, timeout=5))
            with contextlib.suppress(ConnectionError):
                peer.sendall(HALF_OPEN[said])
        with learner.link(**of_actor).connect(20) as link:
            assert link.wait_for_version(0, 20) is not None
            assert psutil.Process().num_threads() - threads < 20


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_a_learner_with_half_of_its_certificate_does_not_listen(given: str, ours: Authority):
    half = {given: ours.sign("learner")[given]}
    with pytest.raises(ConfigError, match=r"runtime\.tls_"), a_learner(**half):
        pass
