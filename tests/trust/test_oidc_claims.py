"""What a provider's claims come to, and what settings make of a provider."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings
from falaj.kernel.settings_federation import ProviderSettings
from falaj.trust.model import Role
from falaj.trust.oidc import authorisation_url, metadata_of
from falaj.trust.oidc_claims import account_name, identity_of
from falaj.trust.oidc_model import Metadata, Provider, Untrusted
from falaj.trust.oidc_presets import provider_of

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ISSUER = "https://id.example"
METADATA = Metadata(ISSUER, f"{ISSUER}/authorize", f"{ISSUER}/token")


def provider(**more: Any) -> Provider:
    return provider_of("corp", ProviderSettings(issuer=ISSUER, client_id="falaj", **more))


def asked(found: Provider, *, fresh: bool = False) -> dict[str, str]:
    url = authorisation_url(
        found, METADATA, state="s", secret="x", redirect_uri="https://us/back", fresh=fresh
    )
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@pytest.mark.parametrize(
    ("claims", "more", "proven"),
    [
        ({"amr": ["pwd"]}, {}, False),
        ({"amr": ["pwd", "mfa"]}, {}, True),
        ({"amr": "mfa"}, {}, False),
        ({}, {}, False),
        ({"acr": "gold"}, {}, False),
        ({"acr": "gold"}, {"mfa_acr": ("gold",)}, True),
        ({"acr": "bronze"}, {"mfa_acr": ("gold",)}, False),
        ({"acrs": ["c1", "c2"]}, {"preset": "entra", "mfa_acr": ("c1",)}, True),
        ({"acr": "c1"}, {"preset": "entra", "mfa_acr": ("c1",)}, False),
        ({"amr": ["mfa"]}, {"preset": "entra"}, False),
        ({}, {"always_two_factors": True}, True),
    ],
)
def test_two_factors_are_proven_by_what_the_settings_name(
    claims: dict[str, Any], more: dict[str, Any], proven: bool
) -> None:
    identity = identity_of({"sub": "a", **claims}, provider(**more), now=NOW)
    assert identity.two_factors is proven


@pytest.mark.parametrize("at", [None, "now", True, -1, 0, 1e300])
def test_a_provider_that_does_not_say_when_proves_no_freshness(at: Any) -> None:
    claims = {"sub": "a", "amr": ["mfa"], "auth_time": at}
    assert identity_of(claims, provider(), now=NOW).mfa_at is None


def test_no_factor_is_of_the_future() -> None:
    claims = {"sub": "a", "amr": ["mfa"], "auth_time": NOW.timestamp() + 20}
    assert identity_of(claims, provider(), now=NOW).mfa_at == NOW


def test_roles_are_those_of_the_groups_and_of_all() -> None:
    found = provider(
        groups={"eng": ("ml_engineer", "viewer"), "ops": ("operator",)}, roles=("steward",)
    )
    claims = {"sub": "a", "groups": ["eng", "none", 7]}
    assert identity_of(claims, found, now=NOW).roles == (
        Role.ML_ENGINEER, Role.STEWARD, Role.VIEWER,
    )  # fmt: skip
    assert found.governs == {Role.ML_ENGINEER, Role.STEWARD, Role.VIEWER, Role.OPERATOR}


def test_groups_that_the_provider_leaves_out_take_no_role_away() -> None:
    claims = {"sub": "a", "_claim_names": {"groups": "src1"}}
    with pytest.raises(Untrusted, match="groups-left-out"):
        identity_of(claims, provider(groups={"eng": ("viewer",)}), now=NOW)
    assert identity_of(claims, provider(roles=("viewer",)), now=NOW).roles == (Role.VIEWER,)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("Amina", "amina"), ("amina.ali@corp.ae", "amina.ali"), ("Zoë Bär", "zo-b-r"),
        ("", "person-0123abcd"), ("é", "person-0123abcd"), ("7of9", "of9"),
        ("-x-", "x-0123abcd"), ("a" * 90, "a" * 50),
    ],
)  # fmt: skip
def test_a_new_account_is_named_after_the_person(told: str, name: str) -> None:
    assert account_name(told, "0123abcdef") == name


def test_a_taken_name_is_told_apart() -> None:
    assert account_name("owner", "0123abcdef", taken=True) == "owner-0123abcd"


def test_entra_is_asked_for_a_context_and_okta_for_a_class() -> None:
    entra = asked(provider(preset="entra", mfa_acr=("c1",)), fresh=True)
    assert entra["claims"] == '{"id_token": {"acrs": {"essential": true, "value": "c1"}}}'
    assert "acr_values" not in entra
    assert asked(provider(preset="okta"), fresh=True)["acr_values"].startswith("urn:okta:loa:2fa")
    assert "acr_values" not in asked(provider(preset="okta"))
    assert "acr_values" in asked(provider(preset="uaepass"))


def test_a_setting_is_stronger_than_a_preset() -> None:
    assert provider(preset="okta").scopes == ("openid", "profile", "groups")
    assert provider(preset="okta", scopes=("openid",)).scopes == ("openid",)
    with pytest.raises(InvalidInput, match="lacks `openid`"):
        provider(scopes=("profile",))


def test_who_was_put_out_by_scim_gets_no_account_beside_it() -> None:
    with pytest.raises(InvalidInput, match="provisioned_by"):
        provider(provision=True, provisioned_by="entra")


@pytest.mark.parametrize("role", ["service", "root", "Administrator"])
def test_a_group_gives_no_role_that_people_cannot_have(role: str) -> None:
    with pytest.raises(InvalidInput, match=role):
        provider(groups={"x": (role,)})


RIGHT = {
    "issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/a", "token_endpoint": f"{ISSUER}/t",
    "jwks_uri": f"{ISSUER}/k", "id_token_signing_alg_values_supported": ["none", "HS256", "ES256"],
}  # fmt: skip


def test_neither_none_nor_a_shared_secret_is_an_algorithm_to_trust() -> None:
    assert metadata_of(RIGHT, ISSUER).algorithms == {"ES256"}


@pytest.mark.parametrize(
    "more",
    [{"issuer": f"{ISSUER}/"}, {"token_endpoint": None}, {"jwks_uri": "http://id.example/k"},
     {"id_token_signing_alg_values_supported": ["HS256"]}],
)  # fmt: skip
def test_a_discovery_document_that_lacks_something_is_not_used(more: dict[str, Any]) -> None:
    with pytest.raises(Untrusted):
        metadata_of({**RIGHT, **more}, ISSUER)


TOML = """
[identity.providers.corp]
issuer = "https://id.example"
client_id = "falaj"
groups = { "Falaj Engineers" = ["ml_engineer"] }
"""


def test_the_client_secret_comes_from_the_environment_and_never_from_the_toml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "falaj.toml"
    file.write_text(TOML)
    monkeypatch.setenv("FALAJ_IDENTITY__PROVIDERS__CORP__CLIENT_SECRET", "12345")
    found = Settings.read(tmp_path).identity.providers["corp"]
    assert found.client_secret is not None
    assert found.client_secret.get_secret_value() == "12345"
    assert found.groups == {"Falaj Engineers": ("ml_engineer",)}
    file.write_text(TOML + 'client_secret = "x"\n')
    with pytest.raises(InvalidInput, match="holds a secret") as told:
        Settings.read(tmp_path)
    assert "FALAJ_IDENTITY__PROVIDERS__CORP__CLIENT_SECRET" in told.value.hint


def test_the_client_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    found = provider(client_secret_file=file)
    assert found.client_secret is not None
    assert found.client_secret.get_secret_value() == "s3cret"
    with pytest.raises(InvalidInput, match="cannot be read"):
        provider(client_secret_file=tmp_path / "none")


@pytest.mark.parametrize("issuer", ["http://id.example", "id.example", "https://id.example?x=1"])
def test_an_issuer_is_an_address_with_tls(issuer: str, tmp_path: Path) -> None:
    (tmp_path / "falaj.toml").write_text(TOML.replace(ISSUER, issuer))
    with pytest.raises(InvalidInput, match="issuer"):
        Settings.read(tmp_path)


def test_every_setting_of_a_provider_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/guide/settings.md").read_text(encoding="utf-8")
    for name in ProviderSettings.model_fields:
        assert f"`identity.providers.NAME.{name}`" in page, name
