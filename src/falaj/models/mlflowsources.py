"""Where the files of an MLflow model lie: an artifact folder of a run or of a logged model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from falaj.kernel.actions import is_writable
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput

SCHEME = "mlflow-artifacts:/"
LONGEST_SOURCE = 1_000
_OF_RUN = re.compile(r"(?P<experiment>[^/]+)/(?P<owner>[^/]+)/artifacts(?:/(?P<path>.+))?")
_OF_MODEL = re.compile(r"(?P<experiment>[^/]+)/models/(?P<owner>[^/]+)/artifacts(?:/(?P<path>.+))?")
_LOGGED = re.compile(r"models:/(?P<owner>m-[A-Za-z0-9]+)")
_VERSION = re.compile(r"models:/(?P<model>[^/@]+)/(?P<version>\d{1,9})")
_FIGURE = re.compile(r"[^\x00-\x1f\x7f\\%?#]+")


@dataclass(frozen=True)
class Folder:
    """A folder of artifacts. ``kind`` is ``run`` or ``logged_model``, ``owner`` its id."""

    kind: str
    owner: str
    path: str = ""

    @property
    def ref(self) -> AssetRef:
        """The asset that the artifacts belong to."""
        return AssetRef(self.kind, self.owner)


@dataclass(frozen=True)
class OtherVersion:
    """A version of a model of this registry, which another version is made from."""

    model: str
    version: int


def source_of(text: str) -> Folder | OtherVersion:
    """What the source of a version names.

    Raises:
        InvalidInput: it is nothing that this platform keeps, or its path climbs.
    """
    if len(text) > LONGEST_SOURCE or not is_writable(text):
        raise _unfit(text)
    version = _VERSION.fullmatch(text)
    if version is not None:
        return OtherVersion(version["model"], int(version["version"]))
    logged = _LOGGED.fullmatch(text)
    if logged is not None:
        return Folder("logged_model", logged["owner"])
    rest = text.removeprefix(SCHEME)
    if rest == text or _FIGURE.fullmatch(text) is None:
        raise _unfit(text)
    rest = rest.rstrip("/")
    if {"", ".", ".."} & set(rest.split("/")):
        raise _unfit(text)
    for kind, pattern in (("logged_model", _OF_MODEL), ("run", _OF_RUN)):
        found = pattern.fullmatch(rest)
        if found is not None:
            return Folder(kind, found["owner"], found["path"] or "")
    raise _unfit(text)


def _unfit(text: str) -> InvalidInput:
    return InvalidInput(
        f"Invalid model version source: {text[:200]!r}.",
        hint="Log the model to a run here, and register it from there (runs:/RUN/PATH): "
        "files elsewhere could change after they were judged.",
    )
