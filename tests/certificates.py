"""Certificates for tests: an authority, and what it signs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from quorate.tls import TlsFiles

HOSTS = ("127.0.0.1", "localhost")

USAGES = {
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
}


class Authority:
    """Signs certificates; its own and theirs lie in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.file)

    @property
    def trusting(self) -> TlsFiles:
        """What a node without a certificate of its own has."""
        return TlsFiles(self.file)

    def issue(
        self,
        name: str,
        hosts: tuple[str, ...] = HOSTS,
        begins: datetime | None = None,
        ends: datetime | None = None,
    ) -> TlsFiles:
        """Return the files of a new certificate, good for servers and clients alike."""
        issued = self._authority.issue_cert(*hosts, not_before=begins, not_after=ends)
        cert, key = (self._folder / f"{name}.{ending}" for ending in ("pem", "key"))
        cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return TlsFiles(self.file, str(cert), str(key))

    def issue_expired(self, name: str) -> TlsFiles:
        """Return the files of a certificate that was valid in January 2020."""
        return self.issue(
            name, begins=datetime(2020, 1, 1, tzinfo=UTC), ends=datetime(2020, 2, 1, tzinfo=UTC)
        )


def self_signed(folder: Path, usage: str) -> TlsFiles:
    """Return the files of a certificate that is made for one use alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, usage)])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([USAGES[usage]]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{usage}.pem"
    file.write_bytes(cert.public_bytes(serialization.Encoding.PEM) + key_pem(key))
    return TlsFiles(cert_file=str(file))


def key_pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """Return a private key in PEM, encrypted if there is a password."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
