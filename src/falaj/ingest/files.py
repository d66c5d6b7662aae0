"""The files of a source: found where they may be, hashed, and read as text.

A path is relative to the project's folder and may not leave it (nor may a link lead out of
it), unless the operator names further folders. What the platform keeps for itself (keys,
database, certificates) and hidden files are no data, wherever they lie.
``package:name/file`` is a file of an installed distribution.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import importlib.metadata
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from falaj.ingest.model import Format, Source, SourceBroken
from falaj.kernel.errors import AlreadyExists, LimitExceeded

PACKAGE = "package:"
_CHUNK = 1 << 20
_LONGEST_NAME, _MOST_NAMES = 64, 20
"""Of what stands in a header, as an error tells it."""


@dataclass(frozen=True)
class File:
    """A file of a source: how users know it, where it is, and what it says."""

    name: str
    path: Path
    digest: str


@dataclass(frozen=True)
class Read:
    """Rows as they stand in the files.

    ``rows`` has the source's columns (text for CSV) and ``_row``, the row's number from 1
    over all files without headers. ``malformed`` are lines that are no rows.
    """

    rows: pa.Table
    malformed: tuple[tuple[int, str, str], ...] = ()
    """Row number, reason, text."""

    @property
    def n_rows(self) -> int:
        """All rows, the malformed ones as well."""
        return int(self.rows.num_rows) + len(self.malformed)


class Files:
    """Finds and reads the files of sources.

    Args:
        roots: folders that files may come from; paths are relative to the first one.
        closed: files and folders that none may come from, though they lie in a root.
        max_bytes: of one load, uncompressed; beyond it the load is refused.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        closed: Sequence[Path] = (),
        max_bytes: int = 4 * 2**30,
    ) -> None:
        self._named = [Path(os.path.abspath(root)) for root in roots]  # noqa: PTH100
        self._roots = [root.resolve() for root in roots]
        self._closed = [path.resolve() for path in closed]
        self._max_bytes = max_bytes

    def found(self, source: Source) -> list[File]:
        """The files that the source's path names, by name, with the SHA-256 of each.

        Raises:
            SourceBroken: there is none, or it lies outside of the permitted folders.
        """
        if source.path.startswith(PACKAGE):
            named = [(source.path, _packaged(source))]
        else:
            named = [
                (_shown(path, self._roots[0]), path.resolve())
                for path in self.matching(source.path, f"The source {source.name!r}")
            ]
        return [File(name, path, _digest(path, source)) for name, path in named]

    def read(self, source: Source, files: Sequence[File]) -> Read:
        """All rows of the files.

        Raises:
            SourceBroken: a header lacks a column or has an unexpected one, there is no row,
                or the text is not UTF-8; names the file. LimitExceeded: they are too large.
        """
        parts: list[pa.Table] = []
        malformed: list[tuple[int, str, str]] = []
        n_rows, n_bytes = 0, 0
        for file in files:
            part, wrong = self._read(source, file)
            n_bytes += part.nbytes
            self._limited(source, n_bytes)
            numbers = _numbers(part.num_rows, {number for number, _, _ in wrong}, n_rows)
            parts.append(part.append_column("_row", numbers))
            malformed += [(n_rows + number, reason, text) for number, reason, text in wrong]
            n_rows += part.num_rows + len(wrong)
        if not n_rows:
            told = ", ".join(file.name for file in files)
            raise SourceBroken(
                f"The source {source.name!r} has no rows: {told} has only a header.",
                hint="Nothing was written; give a file with rows.",
            )
        return Read(pa.concat_tables(parts), tuple(malformed))

    def matching(self, pattern: str, told: str) -> list[Path]:
        """The files of a path or glob, sorted, as they are named (links not followed).

        Args:
            pattern: a path or glob, relative to the first root or absolute.
            told: what wants them, as an error tells it (``The source 'flights'``).

        Raises:
            SourceBroken: there is none, or one lies where it may not be read.
        """
        whole = self._within_roots(pattern, told)
        paths = sorted(Path(found) for found in glob.glob(str(whole), recursive=True))  # noqa: PTH207
        paths = [path for path in paths if path.is_file()]
        for path in paths:
            self.check(path, told)
        if not paths:
            raise SourceBroken(
                f"{told} names the file {pattern!r}, which does not exist.",
                hint=f"Paths are looked up in {self._roots[0]}.",
            )
        return paths

    def folder(self, path: str, told: str) -> Path:
        """The folder of that path; raises SourceBroken as ``matching`` does."""
        found = self._within_roots(path, told)
        self.check(found, told)
        if not found.is_dir():
            raise SourceBroken(
                f"{told} names the folder {path!r}, which does not exist.",
                hint=f"Paths are looked up in {self._roots[0]}.",
            )
        return found.resolve()

    def target(self, path: str, told: str, *, unless: Callable[[Path], bool]) -> Path:
        """Where a new file of that path may be written; its folder must be there.

        Args:
            path: relative to the first root or absolute.
            told: what writes it, as an error tells it.
            unless: true for a file that may be replaced.

        Raises:
            SourceBroken: it may not lie there, or its folder is not there.
            AlreadyExists: there is such a file.
        """
        found = self._within_roots(path, told)
        self.check(found, told)
        if not found.parent.is_dir():
            raise SourceBroken(
                f"{told} cannot write {path!r}: its folder does not exist.",
                hint=f"Make it; paths are looked up in {self._roots[0]}.",
            )
        if (found.exists() or found.is_symlink()) and not unless(found):
            raise AlreadyExists(f"There is a file {path!r} already.", hint="Name another one.")
        return found.parent.resolve() / found.name

    def check(self, path: Path, told: str) -> None:
        """Raises SourceBroken for a file or folder that may not be read, wherever links lead."""
        if not self._permitted(path.resolve()):
            raise _outside(told, str(path))

    def _within_roots(self, path: str, told: str) -> Path:
        asked = Path(path)
        whole = str(asked if asked.is_absolute() else self._roots[0] / asked)
        # Looked at before the disk is: the answer must not tell what lies outside.
        if not _within(Path(os.path.normpath(whole)), [*self._roots, *self._named]):
            raise _outside(told, path)
        return Path(whole)

    def _permitted(self, path: Path) -> bool:
        """True for a file of a root that is neither hidden nor the platform's own."""
        if _within(path, self._closed):
            return False
        inside = [path.relative_to(root) for root in self._roots if path.is_relative_to(root)]
        return any(not any(part.startswith(".") for part in found.parts) for found in inside)

    def _limited(self, source: Source, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise LimitExceeded(
                f"The files of {source.name!r} hold more than {self._max_bytes} bytes.",
                hint="Load them in parts, or raise the limit of a load.",
            )

    def _read(self, source: Source, file: File) -> tuple[pa.Table, list[tuple[int, str, str]]]:
        try:
            if source.format is Format.PARQUET:
                return _parquet(source, file), []
            with ExitStack() as stack:
                opened = stack.enter_context(file.path.open("rb"))
                return _csv(source, file, self._inflated(source, file, opened, stack))
        except (OSError, EOFError, zipfile.BadZipFile, pa.ArrowInvalid) as error:
            raise SourceBroken(
                f"The file {file.name} of {source.name!r} cannot be read: {_line(error)}.",
                hint=f"It must be {source.format.upper()}, whole, and in UTF-8.",
            ) from None

    def _inflated(
        self, source: Source, file: File, opened: IO[bytes], stack: ExitStack
    ) -> IO[bytes]:
        suffix = PurePosixPath(file.path.name).suffix
        if suffix == ".gz":
            opened = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=opened)))
        elif suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(opened))
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise SourceBroken(
                    f"The archive {file.name} of {source.name!r} holds {len(members)} files.",
                    hint="Give an archive with exactly one file.",
                )
            opened = stack.enter_context(archive.open(members[0]))
        else:
            return opened
        data = opened.read(self._max_bytes + 1)
        self._limited(source, len(data))
        return io.BytesIO(data)


def _csv(
    source: Source, file: File, opened: IO[bytes]
) -> tuple[pa.Table, list[tuple[int, str, str]]]:
    _headed(source, file, _header(source, opened))
    wrong: list[tuple[int, str, str]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        reason = f"it has {row.actual_columns} values, not {row.expected_columns}"
        wrong.append(((row.number or 2) - 1, reason, row.text))
        return "skip"

    rows = pa.csv.read_csv(
        opened,
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=8 * _CHUNK),
        parse_options=pa.csv.ParseOptions(
            delimiter=source.delimiter, newlines_in_values=True, invalid_row_handler=note
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(source.columns, pa.string()),
            include_columns=list(source.columns),
            null_values=list(source.null_strings),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return rows, wrong


def _header(source: Source, opened: IO[bytes]) -> list[str]:
    """The names in the first line; the file is left at its beginning."""
    line = opened.readline(_CHUNK)
    opened.seek(0)
    if not line.strip():
        return []
    options = pa.csv.ParseOptions(delimiter=source.delimiter)
    return list(pa.csv.read_csv(io.BytesIO(line), parse_options=options).column_names)


def _parquet(source: Source, file: File) -> pa.Table:
    with pa.parquet.ParquetFile(file.path) as opened:
        _headed(source, file, opened.schema_arrow.names)
        return opened.read(columns=list(source.columns)).select(list(source.columns))


def _headed(source: Source, file: File, names: Sequence[str]) -> None:
    missing = [name for name in source.columns if name not in names]
    unexpected = [name for name in names if name not in source.columns]
    twice = sorted({name for name in names if list(names).count(name) > 1})
    told = [
        f"{what} {', '.join(repr(name[:_LONGEST_NAME]) for name in found[:_MOST_NAMES])}"
        for what, found in (
            ("it lacks", missing),
            ("it has the unexpected", unexpected),
            ("it repeats", twice),
        )
        if found
    ]
    if told:
        raise SourceBroken(
            f"The header of {file.name} does not fit the source {source.name!r}:"
            f" {'; '.join(told)}.",
            hint="Correct the file, or declare its columns as they are.",
            missing=missing,
            unexpected=[name[:_LONGEST_NAME] for name in unexpected[:_MOST_NAMES]],
        )


def _numbers(n_rows: int, skipped: set[int], before: int) -> pa.Array:
    if not skipped:
        return pa.array(range(before + 1, before + n_rows + 1), pa.int64())
    whole = range(1, n_rows + len(skipped) + 1)
    return pa.array([before + n for n in whole if n not in skipped][:n_rows], pa.int64())


def _packaged(source: Source) -> Path:
    distribution, _, inside = source.path.removeprefix(PACKAGE).partition("/")
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise SourceBroken(
            f"The source {source.name!r} needs the package {distribution!r}.",
            hint=f"Install it with `pip install {distribution}`.",
        ) from None
    for file in files:
        if str(file) == inside and ".." not in file.parts:
            return Path(str(file.locate()))
    raise SourceBroken(
        f"The package {distribution!r} has no file {inside!r}, which {source.name!r} names.",
        hint="Check the path inside the package.",
    )


def _digest(path: Path, source: Source) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourceBroken(
            f"The source {source.name!r} cannot read {path.name}: {error.strerror}.",
            hint="Check the file and its permissions.",
        ) from None


def _within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _outside(told: str, path: str) -> SourceBroken:
    return SourceBroken(
        f"{told} may not read {path!r}: it lies outside of the project's folder, or is hidden"
        " or the platform's own.",
        hint="Move it into the project, or ask the operator to permit its folder.",
    )


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
