"""A certificate authority of the tests' own, and a server's certificate from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trustme

from flask_kvsession.connection.embedded import find_binary

from .servers import Server, ServerEnded, free_ports


class Certificates:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self.authority, self._key, self._chain = (
            str(folder / name) for name in ("ca.pem", "key.pem", "chain.pem")
        )
        authority.cert_pem.write_to_path(self.authority)
        certificate.private_key_pem.write_to_path(self._key)
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(self._chain, append=True)

    def server_options(self, port: int) -> list[str]:
        """Options with which a server listens with TLS on this port."""
        return [
            *("--tls-port", str(port), "--tls-auth-clients", "no"),
            *("--tls-ca-cert-file", self.authority),
            *("--tls-cert-file", self._chain, "--tls-key-file", self._key),
        ]


def start_with_tls(folder: Path, certificates: Certificates, *options: str) -> tuple[Server, int]:
    """A server that also listens with TLS, and its TLS port. Not every program is built with TLS;
    Debian's is."""
    [port] = free_ports(1)
    options = (*certificates.server_options(port), *options)
    for program in (find_binary(), shutil.which("redis-server"), shutil.which("valkey-server")):
        if program:
            try:
                return Server(folder, *options, port=free_ports(1)[0], program=program), port
            except ServerEnded:
                continue
    pytest.skip("no server program on PATH was built with TLS")
