"""Certificate authorities for tests, and the certificates that they sign."""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BEGIN, END = dt.datetime(2000, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
"""When they are valid: always, without a look at the clock."""


@dataclass(frozen=True)
class Authority:
    """One that signs certificates; ``file`` is its own."""

    file: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    def sign(self, host: str) -> tuple[Path, Path]:
        """Return the files of a certificate for a loopback address, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
        built = _begun(subject, self.name, key).add_extension(alternative, critical=False)
        certificate, own = self.file.with_name("server.pem"), self.file.with_name("server-key.pem")
        certificate.write_bytes(built.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        own.write_bytes(_pem(key))
        return certificate, own


def authority(directory: Path, name: str = "tests") -> Authority:
    """Make one whose files are in this directory."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = _begun(subject, subject, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    file = directory / "ca.pem"
    file.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return Authority(file, subject, key)


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(BEGIN).not_valid_after(END)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
