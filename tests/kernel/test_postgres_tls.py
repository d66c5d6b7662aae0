"""A PostgreSQL on another machine is never asked in clear text."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import make_url, text

from falaj.interfaces.doctor import Unwell, _proven_server
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database
from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.kernel.postgres_tls import is_here, parameters_of, secured
from falaj.kernel.settings import Settings
from falaj.testing.killable import TlsFront
from falaj.trust.certificates import CertificateAuthority
from falaj.wiring.stores import checked

HERE = (
    "postgresql+psycopg://u@127.0.0.1:5432/n", "postgresql+psycopg://u@localhost/n",
    "postgresql+psycopg://u@[::1]:5432/n", "postgresql+psycopg:///n?host=/run/postgresql",
    "host=127.0.0.1 dbname=n", "dbname=n", "host=/run/postgresql dbname=n",
)  # fmt: skip
ELSEWHERE = (
    "postgresql+psycopg://u@db.internal/n", "postgresql+psycopg://u:p@10.0.0.7:5432/n?a=b",
    "postgresql+psycopg://u@127.0.0.1,db.internal/n", "postgresql+psycopg:///n?host=db.internal",
    "host=db.internal dbname=n", "host = 'db.internal' dbname=n",
    "host=localhost hostaddr=10.0.0.7 dbname=n",
)  # fmt: skip


@pytest.mark.parametrize("connection", HERE)
def test_on_this_machine_a_connection_is_as_it_was(connection):
    assert secured(connection, None, setting="database") == connection


@pytest.mark.parametrize("connection", ELSEWHERE)
def test_elsewhere_tls_is_required(connection):
    given = parameters_of(secured(connection, None, setting="database"))
    assert (given["sslmode"], given["ssl_min_protocol_version"]) == ("require", "TLSv1.3")


@pytest.mark.parametrize("connection", ELSEWHERE)
def test_with_an_authority_the_server_must_prove_who_it_is(connection):
    told = secured(connection, Path("/etc/our ca.pem"), setting="database")
    given = parameters_of(told)
    assert (given["sslmode"], given["sslrootcert"]) == ("verify-full", "/etc/our ca.pem")


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
@pytest.mark.parametrize("setting", ["database", "lake"])
def test_clear_text_to_another_machine_is_refused_at_once(tmp_path, mode, setting):
    url = f"postgresql://u@db.internal/n?sslmode={mode}"
    value = (
        url.replace("://", "+psycopg://") if setting == "database" else f"ducklake:postgres:{url}"
    )
    with pytest.raises(InvalidInput, match=rf"setting {setting} .*\(sslmode={mode}\)"):
        checked(Settings.read(tmp_path, **{setting: value}))


def test_what_the_operator_asks_for_beyond_it_stays():
    url = "postgresql+psycopg://u@db.internal/n?sslmode=verify-ca&ssl_min_protocol_version=TLSv1.2"
    assert secured(url, None, setting="database") == url


def test_the_environment_of_libpq_does_not_lead_elsewhere_in_clear(monkeypatch):
    monkeypatch.setenv("PGHOST", "db.internal")
    assert not is_here({})
    assert "sslmode='require'" in secured("dbname=n", None, setting="lake")


def test_a_password_is_kept_beside_the_parameters_of_tls(tmp_path):
    settings = Settings.read(
        tmp_path, database="postgresql+psycopg://u@db.internal/n", database_password="p@ss"
    )
    assert settings.database_url.startswith("postgresql+psycopg://u:p%40ss@db.internal/n?")
    assert "sslmode=require" in settings.database_url


def test_the_doctor_says_that_a_server_elsewhere_need_not_prove_who_it_is(tmp_path):
    def made(**given):
        return SimpleNamespace(settings=Settings.read(tmp_path, **given))

    url = "postgresql+psycopg://u@db.internal/n"
    with pytest.raises(Unwell, match="setting database is asked over TLS, but need not prove"):
        _proven_server(made(database=url))
    with pytest.raises(Unwell, match="setting lake"):
        _proven_server(made(lake="ducklake:postgres:host=db.internal dbname=n"))
    _proven_server(made(database=url, database_ca_file="/etc/ca.pem"))
    _proven_server(made(database="postgresql+psycopg://u@127.0.0.1/n"))
    _proven_server(made())


@pytest.fixture
def front(postgres_server, tmp_path):
    """TLS before the throw-away PostgreSQL, whose build has none."""
    port = make_url(postgres_server.url()).port
    found = TlsFront(tmp_path / "front", port, names=("localhost",), is_postgres=True)
    yield found
    found.close()


def through(front, postgres_server, tmp_path, **given):
    url = make_url(postgres_server.url()).set(host="localhost", port=front.port)
    found = Settings.read(tmp_path, database=url.render_as_string(hide_password=False), **given)
    return Database(found.database_url)


@pytest.mark.services
def test_a_server_that_proves_who_it_is_is_asked_over_tls_1_3(front, postgres_server, tmp_path):
    database = through(front, postgres_server, tmp_path, database_ca_file=front.ca_file)
    try:
        with database.reading() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
    finally:
        database.close()
    assert set(front.versions) == {"TLSv1.3"}


@pytest.mark.services
def test_a_server_of_another_authority_is_not_believed(front, postgres_server, tmp_path):
    other = CertificateAuthority(tmp_path / "tls", clock=SystemClock())
    other.server_certificate(("localhost",))
    ca_file = tmp_path / "tls" / "ca.pem"
    database = through(front, postgres_server, tmp_path, database_ca_file=ca_file)
    try:
        with pytest.raises(Unavailable, match="certificate verify failed"), database.reading():
            pass
    finally:
        database.close()


@pytest.mark.services
def test_a_server_without_tls_is_not_asked_in_clear_where_tls_is_wanted(postgres_server, tmp_path):
    plain = make_url(postgres_server.url()).render_as_string(hide_password=False)
    database = Database(f"{plain}?sslmode=require")
    try:
        with pytest.raises(Unavailable, match="does not support SSL"), database.reading():
            pass
    finally:
        database.close()
