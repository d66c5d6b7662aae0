"""Certificates of programs: issued for a key, recognised, renewed, revoked."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from falaj.interfaces.certificatesource import new_request
from falaj.kernel.errors import Forbidden, InvalidInput, NotFound
from falaj.trust.bindings import Presented
from falaj.trust.certificatelogin import CertificateLogin
from falaj.trust.certificates import CertificateAuthority
from falaj.trust.identities import Identity
from falaj.trust.model import InvalidToken, Role, WrongCredentials
from falaj.trust.proofs import UnprovenKey
from falaj.trust.workload import ProgramCertificates


class Desk:
    """Issues certificates on a small platform."""

    def __init__(self, trust, folder):
        self.trust = trust
        self.authority = CertificateAuthority(folder / "tls", clock=trust.clock, keys=trust.keys)
        self.certificates = self.made()
        self.logins = CertificateLogin(trust.authentication, self.certificates)
        with trust.database.transaction() as connection:
            for name in ("ci", "scorer"):
                trust.accounts.create_service(
                    connection, name=name, roles=[Role.SERVICE], created_by="user:a", now=trust.now
                )

    def made(self, **more):
        return ProgramCertificates(
            self.trust.accounts,
            self.trust.sessions,
            lambda: self.authority,
            trust_domain="falaj",
            **more,
        )

    def issue(self, name="ci", request=None):
        request = new_request(name)[1] if request is None else request
        with self.trust.database.transaction() as connection:
            return self.certificates.issue(connection, name, request, now=self.trust.now)

    def caller(self, issued):
        """Who logs in with a certificate, as its token tells."""
        token = self.login(issued).access_token.get_secret_value()
        shown = Presented(certificate=issued.thumbprint)
        return self.trust.tokens.read(token, self.trust.now, shown).caller

    def stands(self, caller, name="ci"):
        with self.trust.database.transaction() as connection:
            self.certificates.must_stand(connection, name, caller, now=self.trust.now)

    def revoke(self, name, serial=None):
        with self.trust.database.transaction() as connection:
            return self.certificates.revoke(
                connection, name, serial, now=self.trust.now, because="a test"
            )

    def login(self, issued):
        return self.logins.login(der(issued.certificate))


def der(text):
    return x509.load_pem_x509_certificate(text.encode()).public_bytes(serialization.Encoding.DER)


def request_by(key, algorithm):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "administrator")])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier("spiffe://falaj/service/x")]
            ),
            critical=False,
        )
        .sign(key, algorithm)
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )


@pytest.fixture
def desk(trust, tmp_path):
    return Desk(trust, tmp_path)


def test_a_certificate_names_the_account_and_nothing_that_its_request_asked_for(desk):
    key = ec.generate_private_key(ec.SECP384R1())
    issued = desk.issue("ci", request_by(key, hashes.SHA256()))
    held = x509.load_pem_x509_certificate(issued.certificate.encode())
    assert str(Identity.of(held)) == issued.identity == "spiffe://falaj/service/ci"
    assert held.public_key() == key.public_key()
    assert held.subject.rfc4514_string() == "CN=ci"
    usage = held.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not held.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert held.not_valid_after_utc - desk.trust.now == timedelta(hours=1)
    authority = x509.load_pem_x509_certificate(issued.authority.encode())
    held.verify_directly_issued_by(authority)


@pytest.mark.parametrize("make", [Ed25519PrivateKey.generate, lambda: None])
def test_a_request_of_a_modern_key_is_taken_and_one_of_rsa_is_not(desk, make):
    key = make()
    if key is not None:
        assert desk.issue("ci", request_by(key, None)).account == "ci"
        return
    weak = rsa.generate_private_key(65537, 2048)
    with pytest.raises(InvalidInput, match="neither ECDSA"):
        desk.issue("ci", request_by(weak, hashes.SHA256()))


def test_a_request_that_is_none_or_not_signed_by_its_key_is_refused(desk):
    good = request_by(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    other = request_by(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    lines, others = good.splitlines(), other.splitlines()
    swapped = "\n".join([*lines[:-3], *others[-3:]])  # the signature of another request
    for bad in ("", "rubbish", swapped, "x" * 9000):
        with pytest.raises(InvalidInput):
            desk.issue("ci", bad)


def test_no_person_and_no_account_that_has_ended_gets_a_certificate(desk, trust):
    trust.person("amina")
    with trust.database.transaction() as connection:
        trust.accounts.deactivate(connection, "scorer", now=trust.now)
    for name in ("amina", "scorer"):
        with pytest.raises(Forbidden):
            desk.issue(name)
    with pytest.raises(NotFound):
        desk.issue("nobody")


def test_a_certificate_is_exchanged_for_a_token_that_needs_it(desk, trust):
    issued = desk.issue()
    pair = desk.login(issued)
    assert pair.refresh_token is None
    token = pair.access_token.get_secret_value()
    caller = trust.tokens.verify(token, trust.now, Presented(certificate=issued.thumbprint))
    assert caller.principal.id == "service:ci"
    other = desk.issue().thumbprint
    for presented in (Presented(), Presented(certificate=other)):
        with pytest.raises(UnprovenKey):
            trust.tokens.verify(token, trust.now, presented)
    assert trust.last_record().action == "auth.certificate_login"
    assert trust.last_record().principal == "service:ci"


def test_a_certificate_that_has_run_out_lets_nobody_in(desk, trust):
    issued = desk.issue()
    trust.wait(minutes=59)
    desk.login(issued)
    trust.wait(minutes=1)
    with pytest.raises(WrongCredentials):
        desk.login(issued)
    assert trust.last_record().reasons == ("certificate-expired",)


def test_a_revoked_certificate_lets_nobody_in_and_its_tokens_end_within_a_second(desk, trust):
    first, second = desk.issue(), desk.issue()
    tokens = {
        one.serial: desk.login(one).access_token.get_secret_value() for one in (first, second)
    }
    elsewhere = trust.new_process()
    for one in (first, second):
        shown = Presented(certificate=one.thumbprint)
        elsewhere.verify(tokens[one.serial], trust.now, shown)
    assert desk.revoke("ci", first.serial) == 1
    with pytest.raises(WrongCredentials):
        desk.login(first)
    assert trust.last_record().reasons == ("certificate-revoked",)
    trust.wait(seconds=1)
    with pytest.raises(InvalidToken):
        elsewhere.verify(tokens[first.serial], trust.now, Presented(certificate=first.thumbprint))
    elsewhere.verify(tokens[second.serial], trust.now, Presented(certificate=second.thumbprint))
    assert desk.revoke("ci") == 1  # all that are left
    assert desk.revoke("ci") == 0
    with pytest.raises(NotFound):
        desk.revoke("ci", "abc")
    with pytest.raises(NotFound):
        desk.revoke("scorer", second.serial)


def test_a_new_secret_ends_the_certificates_that_the_old_one_has_brought(desk, trust):
    issued = desk.issue()
    with trust.database.transaction() as connection:
        trust.accounts.replace_secret(connection, "ci", now=trust.now)
    with pytest.raises(WrongCredentials):
        desk.login(issued)


def test_the_certificate_of_an_account_that_has_ended_lets_nobody_in(desk, trust):
    issued = desk.issue()
    with trust.database.transaction() as connection:
        trust.accounts.deactivate(connection, "ci", now=trust.now)
    with pytest.raises(WrongCredentials):
        desk.login(issued)
    assert trust.last_record().reasons == ("no-account",)


def test_a_certificate_that_this_platform_has_not_issued_to_an_account_lets_nobody_in(
    desk, trust, tmp_path
):
    key = ec.generate_private_key(ec.SECP256R1())
    hour = timedelta(hours=1)

    def signed(identity, authority=desk.authority):
        return authority.program_certificate(key.public_key(), identity, valid=hour)[0]

    stranger = CertificateAuthority(tmp_path / "strange", clock=trust.clock)
    named = "spiffe://falaj/service/ci"
    for certificate, reason in (
        (signed(named), "certificate-unknown"),  # ours, but no account's
        (signed(named, stranger), "certificate-unknown"),
        (signed("spiffe://elsewhere/service/ci"), "certificate-of-another"),
        (signed("spiffe://falaj/worker/ci"), "certificate-of-another"),
    ):
        with pytest.raises(WrongCredentials):
            desk.logins.login(certificate.public_bytes(serialization.Encoding.DER))
        assert trust.last_record().reasons == (reason,)
    with pytest.raises(WrongCredentials):
        desk.logins.login(None)


def test_a_certificate_of_an_authority_that_the_operator_names_is_told_by_its_identity(
    desk, trust, tmp_path
):
    desk.certificates = desk.made(foreign=True)
    logins = CertificateLogin(trust.authentication, desk.certificates)
    key, hour = ec.generate_private_key(ec.SECP256R1()), timedelta(hours=1)
    named = CertificateAuthority(tmp_path / "named", clock=trust.clock)

    def login(authority, identity):
        made, _ = authority.program_certificate(key.public_key(), identity, valid=hour)
        return logins.login(made.public_bytes(serialization.Encoding.DER))

    assert login(named, "spiffe://falaj/service/ci").access_token
    for authority, identity in (
        (desk.authority, "spiffe://falaj/service/ci"),  # ours are known one by one
        (named, "spiffe://falaj/service/nobody"),
        (named, "spiffe://other/service/ci"),
    ):
        with pytest.raises(WrongCredentials):
            login(authority, identity)


def test_the_list_tells_what_is_still_good_and_what_was_revoked(desk, trust):
    first = desk.issue()
    desk.revoke("ci", first.serial)
    trust.wait(minutes=30)
    second, other = desk.issue(), desk.issue("scorer")
    with trust.database.reading() as connection:
        everything = desk.certificates.of(connection, None, now=trust.now)
        of_one = desk.certificates.of(connection, "ci", now=trust.now)
    assert {one.serial for one in everything} == {first.serial, second.serial, other.serial}
    assert [one.serial for one in of_one] == [second.serial, first.serial]
    assert of_one[1].revoked_because == "a test"
    trust.wait(minutes=31)
    with trust.database.reading() as connection:
        assert first.serial not in {
            one.serial for one in desk.certificates.of(connection, None, now=trust.now)
        }


@pytest.mark.parametrize(
    "text",
    [
        "", "spiffe://", "spiffe://falaj", "spiffe://falaj/", "spiffe://falaj//ci",
        "spiffe://falaj/service/../x", "https://falaj/service/ci", "spiffe://fal aj/service/ci",
        "spiffe://FALAJ/service/ci", "spiffe://falaj/service/c\x00i", "spiffe://falaj/" + "x" * 500,
    ],
)  # fmt: skip
def test_what_is_no_identity_is_refused(text):
    with pytest.raises(InvalidInput):
        Identity.parse(text)


def test_an_identity_is_read_back_as_it_was_written():
    text = "spiffe://falaj.example/worker/inference-1"
    assert str(Identity.parse(text)) == text
    assert Identity.parse(text).path == ("worker", "inference-1")


def test_a_program_that_logged_in_gets_the_next_certificate_and_no_other_caller(desk):
    caller = desk.caller(desk.issue())
    desk.stands(caller)
    with pytest.raises(Forbidden):
        desk.stands(caller, "scorer")
    with pytest.raises(Forbidden):
        desk.stands(replace(caller, session=None))


def test_a_token_from_before_a_new_secret_gets_no_certificate(desk):
    caller = desk.caller(desk.issue())
    with desk.trust.database.transaction() as connection:
        desk.trust.accounts.replace_secret(connection, "ci", now=desk.trust.now)
    with pytest.raises(Forbidden, match="still good"):
        desk.stands(caller)


def test_a_token_of_a_revoked_certificate_gets_no_other_one(desk):
    issued = desk.issue()
    caller = desk.caller(issued)
    desk.revoke("ci", issued.serial)
    with pytest.raises(Forbidden, match="still good"):
        desk.stands(caller)
