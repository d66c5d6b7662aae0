"""The metadata database: SQLite embedded, PostgreSQL at scale, the same code on both.

Tables are SQLAlchemy Core tables on one ``metadata``; rooms declare theirs in their
``tables.py``. Instants are stored as Unix microseconds (``Instant``), JSON as ``Json``.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import JSON, BigInteger, MetaData, TypeDecorator, create_engine, event
from sqlalchemy.engine import URL, Connection, Dialect, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    DisconnectionError,
    NoSuchModuleError,
    OperationalError,
)

from falaj.kernel.clock import from_microseconds, microseconds, monotonic
from falaj.kernel.errors import InvalidInput, StorageFull, Unavailable
from falaj.kernel.numbers import finite
from falaj.kernel.telemetry import logger

T = TypeVar("T")
_log = logger(__name__)
_ASKED_AFTER_SECONDS = 1.0
"""A connection that was idle for longer is asked whether it still lives before it is used: a
question of 0.1 ms or more, which every transaction paid."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant, kept as Unix microseconds: exact, sortable, the same everywhere."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Unix microseconds; raises ValueError for an instant without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the instant {value!r} has no time zone")
        return microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """The instant, in UTC."""
        return None if value is None else from_microseconds(value)


class Json(TypeDecorator[Any]):
    """JSON text; ``None`` is stored as SQL NULL, NaN and infinities as their names."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """The document, with nothing in it that PostgreSQL refuses."""
        return finite(value)


class Database:
    """Opens transactions on the database that a URL names.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://user:password@host/name``.
        busy_seconds: how long a writer waits for another one before it gives up.

    On SQLite a transaction takes the write lock when it begins, commits are synced to
    disk (WAL, ``synchronous=FULL``), and many processes may share the file.
    """

    def __init__(self, url: str, *, busy_seconds: float = 30.0) -> None:
        self.url = _parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._busy_seconds = busy_seconds
        self._writing = threading.Lock()
        self.engine = self._make_engine()

    def _make_engine(self) -> Engine:
        if not self.is_sqlite:
            try:
                engine = create_engine(self.url, pool_size=16, max_overflow=16)
            except ModuleNotFoundError as error:
                raise Unavailable(
                    f"The database {self.shown_url} needs the Python package {error.name}.",
                    hint="Install it with `pip install 'falaj[postgres]'`.",
                ) from None
            _ask_the_idle(engine)
            return engine
        path = self.url.database
        if path and path != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Without waiting in a pool's queue: as many connections as there are callers.
        engine = create_engine(
            self.url,
            pool_size=32,
            max_overflow=64,
            connect_args={"timeout": self._busy_seconds, "check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # we begin transactions ourselves
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute(f"PRAGMA busy_timeout={int(self._busy_seconds * 1000)}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            reading = connection.get_execution_options().get("falaj_read_only", False)
            begin = "BEGIN" if reading else "BEGIN IMMEDIATE"
            driver = cast("sqlite3.Connection", connection.connection.driver_connection)
            try:  # by the driver: through SQLAlchemy it took a third of an empty transaction
                driver.execute(begin)
            except sqlite3.Error as error:
                raise DBAPIError.instance(begin, None, error, sqlite3.Error) from error

        return engine

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One read-write transaction: commits at the end, rolls back on any exception.

        Raises:
            Unavailable: the database does not answer or stays locked.
            StorageFull: its disk is full.
        """
        try:
            with self._turn(), self.engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise self._told(error) from error
        except sqlite3.Error as error:  # of a savepoint, which goes past SQLAlchemy
            raise self._of_driver(str(error)) from error

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for this process's other writers, on SQLite, before asking for its lock.

        SQLite makes a second writer sleep and try again: 16 threads then did 1,190 actions
        a second. In a queue of our own they do not sleep past their turn.
        """
        if not self.is_sqlite:
            yield
            return
        if not self._writing.acquire(timeout=self._busy_seconds):
            raise Unavailable(
                f"The database {self.shown_url} was busy for {self._busy_seconds:.0f} s.",
                hint="The call may be repeated.",
            )
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that only reads; takes no lock that stops a writer."""
        try:
            with self.engine.connect() as bare:
                connection = bare.execution_options(falaj_read_only=True)
                with connection.begin():
                    yield connection
        except DBAPIError as error:
            raise self._told(error) from error

    def _told(self, error: DBAPIError) -> Exception:
        reason = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
        if out_of_space(reason) or isinstance(error, OperationalError):
            return self._of_driver(reason)
        return error

    def _of_driver(self, reason: str) -> Exception:
        """The error that a driver's words mean."""
        if out_of_space(reason):
            _log.error("the database's disk is full or failing", error=reason)
            return StorageFull(
                "The disk of the metadata database is full or failing, so nothing was done.",
                hint="Free some space, then repeat the call.",
            )
        if "no such table" in reason.lower():
            return Unavailable(
                f"The database {self.shown_url} has not been set up: {reason}.",
                hint="Run `falaj init` in this folder first.",
            )
        return Unavailable(
            f"The database {self.shown_url} does not answer: {reason}.",
            hint="See `falaj doctor`; the call may be repeated.",
        )

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _ask_the_idle(engine: Engine) -> None:
    """Let connections that have been idle prove that they live before they are used."""

    @event.listens_for(engine, "checkin")
    def _left(_connection: Any, record: Any) -> None:
        record.info["left_at"] = monotonic()

    @event.listens_for(engine, "checkout")
    def _taken(connection: Any, record: Any, _proxy: Any) -> None:
        left_at = record.info.get("left_at")
        if left_at is None or monotonic() - left_at < _ASKED_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError(str(error)) from error  # the pool opens another one


def out_of_space(reason: str) -> bool:
    """True if a driver's words mean a disk that is full or fails."""
    lowered = reason.lower()
    return any(word in lowered for word in ("disk is full", "no space", "disk i/o", "disk full"))


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        raise InvalidInput(
            "The setting `database` is not a database URL.",
            hint="Use sqlite:///path/to/file.db or postgresql+psycopg://user@host/name.",
        ) from None
    except ModuleNotFoundError as error:
        raise Unavailable(
            f"The setting `database` needs the Python package {error.name}.",
            hint="Install it with `pip install 'falaj[postgres]'`.",
        ) from None
    return parsed


def retried(work: Callable[[], T], *, attempts: int = 5, first_wait: float = 0.01) -> T:
    """Do the work, again while it raises a retryable ``Unavailable``, with growing waits."""
    for attempt in range(attempts):
        try:
            return work()
        except Unavailable:
            if attempt == attempts - 1:
                raise
            time.sleep(first_wait * 2**attempt * (0.5 + random.random()))  # noqa: S311
    raise AssertionError


__all__ = ["Database", "Instant", "Json", "metadata", "out_of_space", "retried"]
