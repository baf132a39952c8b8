"""Certificates for 127.0.0.1: one that vouches for itself, and those of a private authority."""

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class Authority:
    """Whoever signs. Files are PEM; keys are in plain text."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("authority")
        self.file, _ = self._write("authority", self._signed(self._name, self._key, of_an_authority=True), self._key)

    def issue(self, name: str, *, names: tuple[str, ...] = (), address: bool = True) -> tuple[Path, Path]:
        """The files of a certificate and its key, for 127.0.0.1 and these names, as a server or a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        return self._write(name, self._signed(_name(name), key, names=names, address=address), key)

    def _signed(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        names: tuple[str, ...] = (),
        address: bool = True,
        of_an_authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if address else []
        here = x509.SubjectAlternativeName([*addresses, *(x509.DNSName(each) for each in names)])
        return (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=12))
            .add_extension(here, critical=False)
            .add_extension(x509.BasicConstraints(ca=of_an_authority, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name: str, made: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
        files = self._directory / f"{name}.pem", self._directory / f"{name}-key.pem"
        files[0].write_bytes(made.public_bytes(Encoding.PEM))
        files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def own_certificate(directory: Path) -> tuple[Path, Path]:
    """The files of a certificate that vouches for itself, and of its key."""
    made = Authority(directory)
    return made.file, made.file.with_name("authority-key.pem")
