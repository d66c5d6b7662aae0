"""Sealed files of a folder, to be put under another key while others read them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from falaj.kernel.errors import Corrupt
from falaj.lake.disk import disk_error, sync_folder
from falaj.trust.ports import KeyService
from falaj.trust.sealing import resealed, rewrapped, sealed_under

_BEGUN = re.compile(r".*\.rewrapped-[0-9a-f]{16}")
_LEFT_SECONDS = 3600.0
"""A copy that was begun so long ago belongs to a process that was killed."""


class SealedFiles:
    """The files of a folder that ``trust.sealing`` made; fulfils ``Rewrappable``.

    Args:
        name: as an operator reads it.
        folder: all files below it are looked at; it need not exist.
        keys: wraps the data keys.
        context: under which a file is sealed, by its path relative to the folder; None
            for a file that is not ours.

    A file is copied beside its place, synced, and renamed into it: a reader that has it
    open goes on reading the old bytes, which say the same.
    """

    def __init__(
        self, name: str, folder: Path, keys: KeyService, context: Callable[[Path], str | None]
    ) -> None:
        self.name = name
        self._folder = folder
        self._keys = keys
        self._context = context

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """See ``Rewrappable.items``."""
        if not after:
            self._swept()
        names = (path.relative_to(self._folder) for path in self._folder.rglob("*"))
        for item in sorted(str(name) for name in names if self._context(name) is not None):
            if item > after:
                try:
                    with (self._folder / item).open("rb") as source:
                        key_id = sealed_under(source).key_id
                except FileNotFoundError:
                    continue  # released meanwhile
                except Corrupt:
                    key_id = ""
                except OSError as error:
                    raise disk_error(error, f"the file {item}") from error
                yield item, key_id

    def rewrap(self, item: str) -> bool:
        """See ``Rewrappable.rewrap``."""
        return self._replaced(item, rewrapped)

    def reseal(self, item: str) -> bool:
        """See ``Rewrappable.reseal``."""
        return self._replaced(item, resealed)

    def _replaced(self, item: str, copy: Callable[..., None]) -> bool:
        path, context = self._folder / item, self._context(Path(item))
        begun = path.with_name(f"{path.name}.rewrapped-{token_hex(8)}")
        try:
            with path.open("rb") as source:
                found = os.fstat(source.fileno())
                handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with os.fdopen(handle, "wb") as target:
                    copy(source, target, self._keys, context=context)
                    target.flush()
                    os.fsync(target.fileno())
            os.utime(begun, ns=(found.st_atime_ns, found.st_mtime_ns))
            if not path.exists():  # released meanwhile: it must not come back
                return False
            begun.replace(path)
            sync_folder(path.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise disk_error(error, f"the file {item}") from error
        finally:
            begun.unlink(missing_ok=True)
        return True

    def _swept(self) -> None:
        """Remove the copies that killed processes have left."""
        oldest = time.time() - _LEFT_SECONDS
        for path in self._folder.rglob("*.rewrapped-*"):
            with suppress(OSError):
                if _BEGUN.fullmatch(path.name) and path.stat().st_mtime < oldest:
                    path.unlink()
