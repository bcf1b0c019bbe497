import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from server.authority import AUTHORITY_DAYS, SERVER_DAYS, days_left, make_authority, make_server_certificate

NOW = time.time()


@pytest.fixture(scope="module")
def authority() -> tuple[bytes, bytes]:
    return make_authority("0" * 32, NOW)


def verify(root: bytes, certificate: bytes, name: x509.general_name.GeneralName) -> None:
    store = Store([x509.load_pem_x509_certificate(root)])
    assert isinstance(name, x509.DNSName | x509.IPAddress)
    PolicyBuilder().store(store).build_server_verifier(name).verify(x509.load_pem_x509_certificate(certificate), [])


@pytest.mark.parametrize("name", ["gate.example.org", "localhost"])
def test_a_server_certificate_is_good_for_its_host_and_this_machine(authority: tuple[bytes, bytes], name: str) -> None:
    certificate, _ = make_server_certificate(*authority, "gate.example.org", NOW)
    verify(authority[0], certificate, x509.DNSName(name))


def test_a_server_certificate_is_good_for_no_other_host(authority: tuple[bytes, bytes]) -> None:
    certificate, _ = make_server_certificate(*authority, "gate.example.org", NOW)
    with pytest.raises(VerificationError):
        verify(authority[0], certificate, x509.DNSName("other.example.org"))


def test_a_host_may_be_an_address_of_either_kind(authority: tuple[bytes, bytes]) -> None:
    for host in ("192.0.2.7", "2001:db8::7"):
        certificate, _ = make_server_certificate(*authority, host, NOW)
        names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        assert host in {str(each) for each in names.value.get_values_for_type(x509.IPAddress)}


def test_another_authority_of_the_same_name_vouches_for_nothing(authority: tuple[bytes, bytes]) -> None:
    certificate, _ = make_server_certificate(*authority, "localhost", NOW)
    with pytest.raises(VerificationError):
        verify(make_authority("0" * 32, NOW)[0], certificate, x509.DNSName("localhost"))


def test_a_server_cannot_make_certificates_itself(authority: tuple[bytes, bytes]) -> None:
    middle, middle_key = make_server_certificate(*authority, "localhost", NOW)
    forged, _ = make_server_certificate(middle, middle_key, "bank.example.org", NOW)
    store = Store([x509.load_pem_x509_certificate(authority[0])])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("bank.example.org"))
    with pytest.raises(VerificationError):
        verifier.verify(x509.load_pem_x509_certificate(forged), [x509.load_pem_x509_certificate(middle)])


def test_the_library_that_devices_use_takes_both(authority: tuple[bytes, bytes], tmp_path: Path) -> None:
    certificate, key = make_server_certificate(*authority, "localhost", NOW)
    (tmp_path / "crt").write_bytes(certificate)
    (tmp_path / "key").write_bytes(key)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "crt", tmp_path / "key")
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(cadata=authority[0].decode())
    assert len(trusting.get_ca_certs()) == 1


def test_a_certificate_never_outlives_its_authority(authority: tuple[bytes, bytes]) -> None:
    late = NOW + (AUTHORITY_DAYS - 30) * 86_400
    certificate, _ = make_server_certificate(*authority, "localhost", late)
    assert days_left(certificate, late) == pytest.approx(30, abs=0.01)
    assert days_left(make_server_certificate(*authority, "localhost", NOW)[0], NOW) == pytest.approx(SERVER_DAYS)
