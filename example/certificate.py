"""Makes a certificate for https on this machine, for `make example-https`.

    python -m example.certificate FOLDER PORT

It writes `key.pem` and `cert.pem` into FOLDER, unless they are there and valid, and prints the
command that starts Chromium so that it accepts this certificate and has device-bound sessions with
a key in a file: no hardware is needed.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID_FOR = timedelta(days=90)

FEATURES = "DeviceBoundSessions,EnableBoundSessionCredentialsSoftwareKeysForManualTesting"


def make(folder: Path) -> x509.Certificate:
    """The certificate in this folder, a new one if there is none or it ends soon."""
    path = folder / "cert.pem"
    if path.exists():
        found = x509.load_pem_x509_certificate(path.read_bytes())
        if found.not_valid_after_utc > datetime.now(UTC) + timedelta(days=1):
            return found

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALID_FOR)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    private = folder / "key.pem"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate


def public_key_hash(certificate: x509.Certificate) -> str:
    """The hash by which Chromium is told to accept this certificate and no other."""
    encoded = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(hashlib.sha256(encoded).digest()).decode()


def chromium_options(certificate: x509.Certificate) -> list[str]:
    """The options of Chromium with which it binds sessions of this site."""
    return [
        f"--enable-features={FEATURES}",
        f"--ignore-certificate-errors-spki-list={public_key_hash(certificate)}",
    ]


def main(folder: str, port: str) -> None:
    options = chromium_options(make(Path(folder)))
    profile = Path(folder, "chromium").resolve()
    lines = ["chromium", f"--user-data-dir={profile}", *options, f"https://localhost:{port}"]
    print(
        "Start Chromium with device-bound sessions, in another terminal (root adds --no-sandbox):\n"
    )
    print("  " + " \\\n    ".join(lines) + "\n")
    print("Sign in and wait 10 seconds. A copied cookie __Host-kvsession then gets a 401:\n")
    print(f'  curl -k --cookie "__Host-kvsession=..." https://localhost:{port}/api/me\n')
    print("Other browsers work too. They do not bind sessions with this certificate.")


if __name__ == "__main__":
    main(*sys.argv[1:])
