"""Compiled trees that were held to their model once, kept sealed on this machine.

To read a model's trees, lay them out and compare their scores with the runtime's takes a tenth of
a second, and the runtime's own session 20 ms, which answers wait for where they share a core. A
model's bytes never change, so it is done once: whoever loads them again (another worker, a
rollback, a model that wakes) reads the blocks. They are sealed: only the platform writes them.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from uuid import uuid4

import msgspec
import numpy as np

from falaj.kernel.errors import Corrupt, FalajError
from falaj.kernel.telemetry import logger
from falaj.serving.trees.blocks import Words
from falaj.serving.trees.scorer import Laid
from falaj.trust.ports import KeyService
from falaj.trust.sealing import open_bytes, seal_bytes

MOST_FILES = 64
MOST_BYTES = 2**30
"""What is beyond one of these goes, that first which was not asked for the longest."""

_log = logger(__name__)


class _Document(msgspec.Struct, array_like=True):
    kind: str
    n_features: int
    n_scores: int
    columns: tuple[int, ...]
    few: bytes
    many: bytes
    """Empty where it is the same as ``few``."""


class KeptTrees:
    """Laid-out trees by the bytes of their model.

    Nothing here fails a caller: what cannot be read or written is told in the log, and is then as
    if it had never been kept.

    Args:
        folder: private, of this machine.
        keys: seals the files.
    """

    def __init__(self, folder: Path, keys: KeyService) -> None:
        self._folder, self._keys = folder, keys

    def find(self, model: bytes, n_outputs: int) -> Laid | None:
        """The trees of a model that were kept for so many outputs; None if none were."""
        name = _name(model, n_outputs)
        path = self._folder / name
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("kept_trees_unread", file=name, reason=str(error))
            return None
        try:
            document = open_bytes(sealed, self._keys, context=_context(name))
            found = msgspec.msgpack.decode(document, type=_Document)
            os.utime(path)
        except (FalajError, msgspec.MsgspecError, OSError) as error:
            _log.warning("kept_trees_unread", file=name, reason=str(error))
            if isinstance(error, Corrupt | msgspec.MsgspecError):  # not if the keys are away
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            return None
        few = _words(found.few)
        many = _words(found.many) if found.many else few
        return Laid(found.kind, found.n_features, found.n_scores, found.columns, few, many)

    def keep(self, model: bytes, n_outputs: int, trees: Laid) -> None:
        """Keep the trees of a model whose scores were compared with the model's own."""
        name = _name(model, n_outputs)
        many = b"" if trees.many is trees.few else trees.many.tobytes()
        document = msgspec.msgpack.encode(
            _Document(
                trees.kind, trees.n_features, trees.n_scores, trees.columns,
                trees.few.tobytes(), many,
            )
        )  # fmt: skip
        beside = self._folder / f".{uuid4().hex}"
        try:
            beside.write_bytes(seal_bytes(document, self._keys, context=_context(name)))
            beside.replace(self._folder / name)
            self._sweep()
        except (FalajError, OSError) as error:
            _log.warning("kept_trees_unwritten", file=name, reason=str(error))
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)

    def _sweep(self) -> None:
        found = [(path.stat(), path) for path in self._folder.iterdir()]
        n_bytes = 0
        newest = sorted(found, key=lambda one: one[0].st_mtime, reverse=True)
        for place, (told, path) in enumerate(newest):
            n_bytes += told.st_size
            if place >= MOST_FILES or n_bytes > MOST_BYTES:
                path.unlink(missing_ok=True)


def _words(data: bytes) -> Words:
    return np.frombuffer(data, dtype=np.uint32).copy()  # the loops take an array of its own memory


def _name(model: bytes, n_outputs: int) -> str:
    return f"{hashlib.sha256(model).hexdigest()}-{n_outputs}-{_format()}"


@cache
def _format() -> str:
    """What lays trees out, as a digest: blocks of other code are not read."""
    digest = hashlib.sha256()
    for file in sorted(files("falaj.serving.trees").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _context(name: str) -> str:
    return f"compiled trees {name}"
