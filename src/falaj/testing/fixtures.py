"""The pytest fixtures: databases, throw-away servers, calls.

A ``conftest.py`` takes them with ``from falaj.testing.fixtures import *``. Servers start
with the first test that asks for one; pytest-xdist workers share them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.call import Call
from falaj.kernel.database import Database, metadata
from falaj.testing.brokers import Broker, KafkaServer, NatsServer, RedisServer
from falaj.testing.calls import opened_call
from falaj.testing.guarded import ServerUnavailable
from falaj.testing.lentdatabases import LentDatabases
from falaj.testing.oidcprovider import OidcServer
from falaj.testing.openbao import Bao, BaoServer
from falaj.testing.servers import REQUIRE, PostgresServer, S3Bucket, S3Server, services_required

__all__ = [
    "bao_server",
    "database",
    "hsm_token",
    "kafka_server",
    "lent_databases",
    "make_call",
    "nats_server",
    "oidc_server",
    "own_bao_server",
    "postgres_database",
    "postgres_server",
    "postgres_url",
    "redis_server",
    "s3_server",
    "s3_service",
    "shared_folder",
    "sqlite_database",
    "sqlite_template",
    "table_templates",
]

from falaj.testing.softhsm import Token, made_token

MakeCall = Callable[..., AbstractContextManager[Call]]
"""``with make_call(database, "user:omar", now=…) as call``: see ``opened_call``."""


def _had(start: Callable[[], Any]) -> Any:
    """The started server; or the test is skipped, or failed where servers are required."""
    try:
        return start()
    except ServerUnavailable as error:
        if services_required():
            pytest.fail(f"{REQUIRE}=1, but {error}", pytrace=False)
        pytest.skip(f"this server cannot be had: {error}")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def postgres_server(shared_folder: Path) -> Iterator[PostgresServer]:
    """The session's PostgreSQL server."""
    server: PostgresServer = _had(lambda: PostgresServer(shared_folder))
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database that belongs to this test."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def s3_service(shared_folder: Path) -> Iterator[S3Server]:
    """The session's S3 server."""
    server: S3Server = _had(lambda: S3Server(shared_folder))
    yield server
    server.close()


@pytest.fixture
def s3_server(s3_service: S3Server) -> S3Bucket:
    """Endpoint, keys and an empty bucket that belongs to this test."""
    return s3_service.create_bucket()


@pytest.fixture(scope="session")
def redis_server(shared_folder: Path) -> Iterator[Broker]:
    """The session's Redis server; all tests share its keys, so choose names of your own."""
    server: RedisServer = _had(lambda: RedisServer(shared_folder))
    yield server.broker
    server.close()


@pytest.fixture(scope="session")
def bao_server(shared_folder: Path) -> Iterator[Bao]:
    """The session's OpenBao; all tests share its keys, so choose a prefix of your own."""
    server: BaoServer = _had(lambda: BaoServer(shared_folder))
    yield server.bao
    server.close()


@pytest.fixture
def own_bao_server(tmp_path: Path) -> Iterator[Bao]:
    """An OpenBao of one test, which it may seal or end."""
    server: BaoServer = _had(lambda: BaoServer(tmp_path))
    yield server.bao
    server.close()


@pytest.fixture(scope="module")
def oidc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcServer]:
    """A module's OpenID provider, which its tests may make dishonest."""
    server: OidcServer = _had(lambda: OidcServer(tmp_path_factory.mktemp("oidc")))
    yield server
    server.close()


@pytest.fixture(scope="session")
def hsm_token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    """A token of SoftHSM2 of this process; choose a prefix of your own."""
    found: Token = _had(lambda: made_token(tmp_path_factory.mktemp("softhsm")))
    return found


@pytest.fixture(scope="session")
def nats_server(shared_folder: Path) -> Iterator[Broker]:
    """The session's NATS server with JetStream; choose subjects of your own."""
    server: NatsServer = _had(lambda: NatsServer(shared_folder))
    yield server.broker
    server.close()


@pytest.fixture(scope="session")
def kafka_server(shared_folder: Path) -> Iterator[Broker]:
    """The session's Kafka broker; choose topics of your own. It asks for no password."""
    server: KafkaServer = _had(lambda: KafkaServer(shared_folder))
    yield server.broker
    server.close()


@pytest.fixture(scope="session")
def table_templates() -> dict[tuple[str, frozenset[str]], str]:
    """Databases with all tables made, to be copied, by backend and set of tables."""
    return {}


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the SQLite templates are kept."""
    return tmp_path_factory.mktemp("sqlite-templates")


@pytest.fixture
def sqlite_database(
    tmp_path: Path,
    sqlite_template: Path,
    table_templates: dict[tuple[str, frozenset[str]], str],
) -> Iterator[Database]:
    """A SQLite database of this test, with all tables."""
    which = ("sqlite", frozenset(metadata.tables))
    if which not in table_templates:
        template = sqlite_template / f"{len(table_templates)}.db"
        made = Database(f"sqlite:///{template}")
        metadata.create_all(made.engine)
        made.close()
        table_templates[which] = str(template)
    path = tmp_path / "falaj.db"
    shutil.copyfile(table_templates[which], path)
    database = Database(f"sqlite:///{path}")
    yield database
    database.close()


@pytest.fixture(scope="session")
def lent_databases(postgres_server: PostgresServer) -> LentDatabases:
    """PostgreSQL databases with all tables, which tests use in turn."""
    return LentDatabases(postgres_server)


@pytest.fixture
def postgres_database(
    postgres_server: PostgresServer,
    lent_databases: LentDatabases,
    table_templates: dict[tuple[str, frozenset[str]], str],
) -> Iterator[Database]:
    """A PostgreSQL database of this test, with all tables."""
    which = ("postgresql", frozenset(metadata.tables))
    if which not in table_templates:
        template = postgres_server.create_database()
        made = Database(postgres_server.url(template))
        metadata.create_all(made.engine)
        made.close()
        table_templates[which] = template
    name = lent_databases.take(table_templates[which])
    database = Database(postgres_server.url(name))
    yield database
    database.close()
    lent_databases.give_back(name)


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)],
)
def database(request: pytest.FixtureRequest) -> Database:
    """A database with all tables: the test runs on SQLite and on PostgreSQL."""
    name = "sqlite_database" if request.param == "sqlite" else "postgres_database"
    found: Database = request.getfixturevalue(name)
    return found


@pytest.fixture
def make_call() -> MakeCall:
    """Opens a call on a database, as some principal."""
    return opened_call
