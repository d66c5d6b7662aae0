"""A DuckDB instance with a DuckLake attached, closed to everything but the lake's files.

Extensions come from the installed ``duckdb-extension-*`` wheels, by path, and DuckDB checks
their signatures, once in a process for each file; nothing is ever downloaded. After the lake
is attached, files outside its data folder and the network are switched off and the
configuration is locked.

Httpfs is loaded only because its OpenSSL is what DuckDB encrypts with; when the data
lies in S3 it also carries the bytes.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb

from falaj.kernel.errors import Corrupt, FalajError, InvalidInput, LimitExceeded, Unavailable
from falaj.lake.disk import disk_error
from falaj.lake.model import LakeBroken

_PREFIX = "ducklake:"
_CHECKED: set[tuple[int, ...]] = set()
"""Files of extensions whose signatures this process has seen DuckDB check; see ``_stamp``."""


@dataclass(frozen=True)
class Place:
    """Where a lake is: its catalogue and its data.

    Args:
        catalogue: ``ducklake:sqlite:/path/catalog.sqlite`` or
            ``ducklake:postgres:postgresql://user:password@host/database``.
        data: a folder, or ``s3://bucket/prefix``.
        s3: for data in S3: ``KEY_ID``, ``SECRET``, ``ENDPOINT``, ``REGION``, ``USE_SSL``,
            ``URL_STYLE`` as DuckDB's S3 secrets name them.
        password: of a catalogue in PostgreSQL, where it does not stand in ``catalogue``.
    """

    catalogue: str = field(repr=False)
    data: str
    s3: Mapping[str, str] = field(default_factory=dict, repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def of(
        cls,
        setting: str,
        home: Path,
        *,
        data: str = "",
        s3: Mapping[str, str] | None = None,
        password: str = "",
    ) -> Place:
        """The place that a setting names; ``ducklake:`` alone is all in the folder ``home``."""
        catalogue = setting
        if setting.rstrip(":") in {"ducklake", "ducklake:sqlite"}:
            catalogue = f"{_PREFIX}sqlite:{home / 'catalog.sqlite'}"
        return cls(catalogue, data or str(home / "data"), s3 or {}, password)

    @property
    def sqlite(self) -> Path | None:
        """The catalogue's file, if it is SQLite."""
        kind, rest = self._parts()
        return Path(rest) if kind == "sqlite" else None

    @property
    def dsn(self) -> str:
        """The libpq connection string of a catalogue in PostgreSQL."""
        dsn = _libpq(self._parts()[1])
        return f"{dsn} password={_quoted(self.password)}" if self.password else dsn

    @property
    def folder(self) -> Path | None:
        """The data folder, if the data is on local disk."""
        return None if "://" in self.data else Path(self.data)

    @property
    def data_path(self) -> str:
        """The data path as DuckLake keeps it: absolute, ending in a slash."""
        folder = self.folder
        path = self.data if folder is None else str(folder.absolute())
        return path.rstrip("/") + "/"

    @property
    def target(self) -> str:
        """What ATTACH takes."""
        kind, rest = self._parts()
        return (
            f"{_PREFIX}sqlite:{Path(rest).absolute()}"
            if kind == "sqlite"
            else (f"{_PREFIX}postgres:{self.dsn}")
        )

    def _parts(self) -> tuple[str, str]:
        kind, _, rest = self.catalogue.removeprefix(_PREFIX).partition(":")
        if not self.catalogue.startswith(_PREFIX) or kind not in {"sqlite", "postgres"} or not rest:
            raise InvalidInput(
                "The setting of the lake's catalogue is not one that Falaj knows.",
                hint="Use ducklake:sqlite:/path/catalog.sqlite or ducklake:postgres:postgresql://…",
            )
        return kind, rest


def opened(
    place: Place, *, threads: int, memory: str, wait_seconds: float, create: bool
) -> duckdb.DuckDBPyConnection:
    """A DuckDB instance with the lake attached as ``lake``, closed to the rest of the world.

    Raises:
        Unavailable: an extension's wheel is not installed, or the catalogue does not answer.
        InvalidInput: the lake was made with another data path.
    """
    folder = place.folder
    spill = folder / ".spill" if folder is not None else None
    scanner = "sqlite-scanner" if place.sqlite is not None else "postgres-scanner"
    files = [extension(name) for name in ("httpfs", scanner, "ducklake")]
    stamps = {_stamp(file) for file in files}
    checked = stamps <= _CHECKED  # and loaded; to hash 80 MB again would take 0.3 s
    instance = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_unsigned_extensions": str(checked).lower(),
            "allow_community_extensions": "false",
            "secret_directory": str(Path(place.data_path.replace("://", "/")) / ".no-secrets"),
            "python_enable_replacements": "false",
            "temp_file_encryption": "true",
            "threads": str(threads),
            "memory_limit": memory,
        }
    )
    try:
        for file in files:
            instance.execute(f"LOAD {text(file)}")
        _CHECKED.update(stamps)
        instance.execute("SET allow_unsigned_extensions = false")  # it cannot be set to true
        instance.execute("SET GLOBAL TimeZone = 'UTC'")
        instance.execute(f"SET temp_directory = {text(str(spill) if spill else '')}")
        if place.s3:
            options = ", ".join(f"{name} {text(value)}" for name, value in place.s3.items())
            instance.execute(f"CREATE SECRET lake_data (TYPE s3, {options})")
        allowed = [place.data_path, *([f"{spill}/"] if spill else [])]
        instance.execute(f"SET allowed_directories = [{', '.join(map(text, allowed))}]")
        instance.execute(_attach(place, wait_seconds, create=create))
        instance.execute("SET enable_external_access = false")
        instance.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        instance.close()
        raise told(error) from None
    except BaseException:
        instance.close()
        raise
    return instance


def _attach(place: Place, wait_seconds: float, *, create: bool) -> str:
    options = [
        f"DATA_PATH {text(place.data_path)}",
        "ENCRYPTED",
        "DATA_INLINING_ROW_LIMIT 0",  # inlined rows would stand in the catalogue in clear
        f"CREATE_IF_NOT_EXISTS {str(create).lower()}",
    ]
    if place.sqlite is not None:
        options += ["META_JOURNAL_MODE 'WAL'", f"META_BUSY_TIMEOUT {int(wait_seconds * 1000)}"]
        if place.folder is not None and not create:
            options.append("OVERRIDE_DATA_PATH true")  # a platform's folder may be moved
    return f"ATTACH {text(place.target)} AS lake ({', '.join(options)})"


def private_folders(place: Place) -> None:
    """Make the catalogue's file (0600) and the local folders (0700), and close them to others.

    Raises:
        LimitExceeded, Unavailable: the disk refuses.
    """
    folders = [folder for folder in (place.folder,) if folder is not None]
    if place.sqlite is not None:
        folders.append(place.sqlite.parent)
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if stat.S_IMODE(folder.stat().st_mode) & 0o077:
                folder.chmod(0o700)
        if place.sqlite is not None:
            os.close(os.open(place.sqlite, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            place.sqlite.chmod(0o600)
    except OSError as error:
        raise disk_error(error, f"the lake in {folders[-1] if folders else place.data}") from error


def extension(name: str) -> str:
    """The path of an extension inside its installed wheel.

    Raises:
        Unavailable: the wheel is not installed.
    """
    distribution = f"duckdb-extension-{name}"
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.endswith(".duckdb_extension") and f"v{duckdb.__version__}" in file.parts:
            return str(file.locate())
    raise Unavailable(
        f"The DuckDB extension {name} for DuckDB {duckdb.__version__} is not installed.",
        hint=f"Install it with `pip install {distribution}=={duckdb.__version__}`.",
    )


def _stamp(file: str) -> tuple[int, ...]:
    """Which file this is and when it was last touched: another one has another stamp."""
    found = Path(file).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def text(value: str) -> str:
    """A value as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def name(value: str) -> str:
    """A value as a quoted SQL name."""
    return '"' + value.replace('"', '""') + '"'


_BUSY = ("database is locked", "could not serialize", "deadlock detected", "transaction conflict")
_FULL = ("no space left", "file too large", "disk is full", "disk quota", "disk is full")
_BROKEN = ("decrypt", "ciphertext", "no magic bytes", "crypto", "aes tag", "parquet footer")
_WRONG = (
    duckdb.BinderException,
    duckdb.ParserException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.InvalidInputException,
    duckdb.SyntaxException,
    duckdb.TypeMismatchException,
    duckdb.PermissionException,
    duckdb.NotSupportedError,
)


def is_busy(error: Exception) -> bool:
    """True for an error of the catalogue that another attempt may not meet."""
    message = str(error).lower()
    return any(sign in message for sign in _BUSY)


def told(error: Exception) -> FalajError:
    """A DuckDB error as one of ours, in a sentence and without secrets."""
    lowered = str(error).lower()
    message = _without_password((str(error).strip() or type(error).__name__).splitlines()[0])
    if any(sign in lowered for sign in _FULL):
        return LimitExceeded(
            "The disk of the lake is full.", hint="Free some space; nothing was written."
        )
    if "out of memory" in lowered:
        return LimitExceeded(
            "The lake's work needs more memory than it may use.",
            hint="Ask for fewer rows or columns, or raise the lake's memory limit.",
        )
    if is_busy(error):
        return Unavailable(
            "Other programs kept the lake's catalogue busy for too long.",
            hint="Repeat the call; nothing was written.",
            busy=True,
        )
    if any(sign in lowered for sign in _BROKEN):
        return Corrupt(
            f"A file of the lake is not what was written: {message}.",
            hint="Restore it from a backup; do not use what it says.",
        )
    return _told_by_class(error, message)


def _told_by_class(error: Exception, message: str) -> FalajError:
    if isinstance(error, _WRONG):
        return InvalidInput(f"The lake cannot do that: {message}.", hint="Correct the query.")
    if isinstance(error, duckdb.IOException | duckdb.HTTPException | duckdb.ConnectionException):
        return Unavailable(
            f"The lake's files or catalogue cannot be reached: {message}.",
            hint="See `falaj doctor`.",
        )
    return LakeBroken(f"The lake's engine failed: {message}.", hint="See `falaj doctor`.")


_SECRET = re.compile(r"""\bpassword\s*=\s*(?:'(?:\\.|[^'\\])*'?|\S+)|\S*://\S*""")


def _without_password(message: str) -> str:
    return _SECRET.sub("password=…", message)


def _libpq(url: str) -> str:
    if "://" not in url:
        return url
    parts = urlsplit(url)
    values = {
        "host": unquote(parts.hostname or ""),
        "port": str(parts.port or ""),
        "dbname": parts.path.lstrip("/"),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
    }
    for pair in filter(None, parts.query.split("&")):
        key, _, value = pair.partition("=")
        values[key] = unquote(value)
    return " ".join(f"{key}={_quoted(value)}" for key, value in values.items() if value)


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
