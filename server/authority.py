"""The federation's own certificate authority: one root, one server certificate, for nobody else.

Devices trust this root and no other for the gate's address, so a certificate that a public authority gives to somebody
else is worth nothing here.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3_650
SERVER_DAYS = 397
RENEW_DAYS = 60
"""A server certificate with fewer days left is made anew when the gate starts."""
_EARLIER = timedelta(days=1)  # clocks of people's machines differ


def make_authority(federation: str, now: float) -> tuple[bytes, bytes]:
    """A new certificate authority.

    Args:
        federation: identifier that goes into its name.
        now: seconds since 1970.

    Returns:
        Certificate and private key (P-256, PKCS #8, not encrypted) as PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"plgl federation {federation}")])
    public = key.public_key()
    certificate = (
        _builder(name, name, public, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _private_pem(key)


def make_server_certificate(authority: bytes, authority_key: bytes, host: str, now: float) -> tuple[bytes, bytes]:
    """A certificate for the gate and the SuperLink behind it.

    Guarantee: valid for ``host`` and for this machine's own names (localhost, 127.0.0.1, ::1), as a server only, and
    never longer than its authority.

    Args:
        authority: certificate of the authority, PEM.
        authority_key: its private key, PEM.
        host: name or address that devices dial, without a port.
        now: seconds since 1970.

    Returns:
        Certificate and private key as PEM.
    """
    issuer = x509.load_pem_x509_certificate(authority)
    signer = serialization.load_pem_private_key(authority_key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key must be an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    left = (issuer.not_valid_after_utc - datetime.fromtimestamp(now, UTC)) / timedelta(days=1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plgl gate")])
    names = [_general(each) for each in dict.fromkeys([host, "localhost", "127.0.0.1", "::1"])]
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), now, min(SERVER_DAYS, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pem(certificate), _private_pem(key)


def days_left(certificate: bytes, now: float) -> float:
    """Days until a PEM certificate expires; below 0 when it has."""
    end = x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    return (end.timestamp() - now) / 86_400


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, days: float
) -> x509.CertificateBuilder:
    moment = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _EARLIER)
        .not_valid_after(moment + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
