"""Files of certificates and keys: whether they can be used, told before anybody connects."""

from __future__ import annotations

import ssl
from pathlib import Path

from minedraft.errors import SetupError


def check_pair(cert_flag: str, cert: Path, key_flag: str, key: Path) -> None:
    """Raises SetupError unless the files hold a certificate and its private key."""
    try:
        # The password callback keeps OpenSSL from asking at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SetupError(f"{cert_flag}: {cert} is not the certificate of the key in {key}") from None
        raise SetupError(
            f"{cert_flag}, {key_flag}: {cert} and {key} are not a PEM certificate chain and its unencrypted key"
        ) from None
    except OSError as error:
        raise SetupError(f"{cert_flag}, {key_flag}: {cert}, {key}: {error.strerror}") from None


def check_roots(flag: str, path: Path) -> None:
    """Raises SetupError unless the file holds certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise SetupError(f"{flag}: {path} holds no PEM certificate") from None
    except OSError as error:
        raise SetupError(f"{flag}: {path} cannot be read: {error.strerror}") from None
