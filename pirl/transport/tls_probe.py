"""Why no TLS connection comes about: gRPC only says that nobody answers.

Owns one handshake of its own, of an actor with a learner that listens. Refuses to decide whether to
try again. Read `pirl.transport.contact` next.
"""

from __future__ import annotations

import socket
import ssl

from pirl.config.recipe import RuntimeConfig
from pirl.transport.channel import own_certificate, trust_root

_TIMEOUT_S = 2.0
_NOT_TAKEN = "the learner wants a certificate of this actor that its runtime.tls_ca signed"


def tls_failure(runtime: RuntimeConfig) -> str | None:
    """What is wrong with TLS between this actor and what listens at its address.

    Returns:
        None when nothing is wrong, or when nobody listens yet.
    """
    root = trust_root(runtime)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        if root is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        else:
            context.load_verify_locations(root)
            if (own := own_certificate(runtime)) is not None:
                context.load_cert_chain(*own)
    except (ssl.SSLError, OSError) as error:
        return f"the certificate files cannot be used: {_text(error)}"
    try:
        plain = socket.create_connection((runtime.host, runtime.port), timeout=_TIMEOUT_S)
    except OSError:
        return None
    with plain:
        try:
            with context.wrap_socket(plain, server_hostname=runtime.host) as wrapped:
                if root is None:
                    return "the learner speaks TLS and this actor has no runtime.tls_cert"
                return None if _is_taken(wrapped) else _NOT_TAKEN
        except ssl.SSLError as error:
            return None if root is None else _text(error)
        except OSError:
            return None


def _is_taken(wrapped: ssl.SSLSocket) -> bool:
    """Whether the learner goes on after the handshake; one that misses our certificate hangs up then."""
    try:
        return bool(wrapped.recv(1))
    except ConnectionError:
        return False


def _text(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the learner's certificate is not trusted: {error.verify_message}"
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    if reason == "WRONG_VERSION_NUMBER":
        return "the learner does not speak TLS"
    return str(reason or error).replace("_", " ").lower()
