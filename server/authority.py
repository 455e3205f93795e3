"""The hub's own certificate authority: one for a federation, made once, whose key never leaves the hub."""

import ipaddress
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sst_models.wire.files import replace_file

AUTHORITY_DAYS, SERVER_DAYS = 3650, 825
"""How long certificates hold: a federation's life, and the longest that TLS clients commonly accept for a server."""

CLOCK = timedelta(hours=1)
"""By how much a certificate begins before it is made, for sites whose clock is behind."""


def make_authority(folder: Path, name: str) -> None:
    """Write `ca.crt` and `ca.key`.

    Args:
        folder: where to; made if need be.
        name: of the federation, as it stands in the certificate.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"{name} authority")
    builder = _builder(subject, subject, key.public_key(), AUTHORITY_DAYS)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # signs certificates and lists
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = _identified(builder, key.public_key(), key)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA384())
    _write(folder / "ca.crt", certificate, folder / "ca.key", key)


def issue_server(folder: Path, host: str) -> None:
    """Write `server.crt` and `server.key` for the hub's public name, and for loopback, where its own parts meet.

    Args:
        folder: has `ca.crt` and `ca.key`.
        host: the name or IP address by which sites reach the hub.
    """
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    signer = _signer(folder)
    key = ec.generate_private_key(ec.SECP384R1())
    names = dict.fromkeys((host, "localhost", "127.0.0.1"))
    days = min(float(SERVER_DAYS), (authority.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1))
    builder = _builder(_name(host), authority.subject, key.public_key(), days)
    builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = _identified(builder, key.public_key(), signer)
    _write(folder / "server.crt", builder.sign(signer, hashes.SHA384()), folder / "server.key", key)


def sign(folder: Path, content: bytes) -> bytes:
    """Sign by the authority's key, ECDSA with SHA-384; the same content gives the same signature (RFC 6979).

    Args:
        folder: has `ca.key`.
        content: what the signature covers.
    """
    return _signer(folder).sign(content, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))


def covers(certificate: Path, host: str) -> bool:
    """Whether a server's certificate is for a host, by name or by address."""
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return _alternative(host) in list(names)


def make_secret(path: Path) -> None:
    """Write 32 random bytes as hexadecimal text, readable by the owner alone."""
    write_private(path, secrets.token_hex(32).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all, and never readable in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _signer(folder: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(now - CLOCK).not_valid_after(now + timedelta(days=days))


def _identified(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """Add the identifiers of both keys (RFC 5280, Sec. 4.2.1.1 and 4.2.1.2), which Python asks for from 3.13 on."""
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return builder.add_extension(issuer, critical=False)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(where: Path, certificate: x509.Certificate, private: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(private, pem)
    replace_file(where, certificate.public_bytes(serialization.Encoding.PEM))
