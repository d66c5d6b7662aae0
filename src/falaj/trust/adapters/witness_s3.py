"""``S3Witness``: one locked object for each checkpoint, which S3 itself lets nobody delete.

The bucket must have object lock (and so versions). Each sighting is put only if its key is new,
under a lock in COMPLIANCE mode: until it ends, not even the account's owner can remove that
version. Whoever holds the keys of the bucket can still put a newer version or a delete marker
in front of it; so versions are read, and of each key the oldest counts.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import timedelta

from falaj.kernel.clock import Clock
from falaj.kernel.errors import Conflict, Corrupt, Unavailable
from falaj.trust.adapters.s3_requests import S3Place, S3Requests
from falaj.trust.ports import Sighting
from falaj.trust.sightings import line, put_back
from falaj.trust.sightings import sighting as sighting_of

_MOST = 10**19
_PAGE = 100


class S3Witness:
    """The ``Witness`` in a bucket.

    Args:
        place: the bucket and its keys.
        prefix: what the keys begin with.
        retain: for how long each sighting is locked.
        clock: tells the time.
    """

    def __init__(self, place: S3Place, *, prefix: str, retain: timedelta, clock: Clock) -> None:
        self._requests = S3Requests(place, clock)
        self._prefix = f"{prefix}/" if prefix else ""
        self._retain = retain
        self._clock = clock
        self._name = f"The witness s3://{place.bucket}/{self._prefix}"

    def keep(self, sighting: Sighting) -> None:
        """Put it as a locked object; nothing if it is there already.

        Raises:
            Conflict: a later checkpoint, or another one of this size, was kept before.
            Unavailable: the server does not answer, or takes no locked object.
        """
        latest = self.latest()
        if latest == sighting:
            return
        if latest is not None and latest.size >= sighting.size:
            raise put_back(self._name, latest.size, sighting.size)
        until = self._clock.now() + self._retain
        answer = self._requests.send(
            "PUT",
            self._key(sighting.size),
            body=line(sighting),
            headers={
                "content-type": "application/json",
                "if-none-match": "*",
                "x-amz-object-lock-mode": "COMPLIANCE",
                "x-amz-object-lock-retain-until-date": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
        )
        if answer.status_code in (409, 412):
            raise Conflict(
                f"{self._name} holds another sighting of {sighting.size} audit records.",
                hint="Two logs tell the same witness, or the log was put back: run "
                "`falaj audit verify`.",
            )
        if answer.status_code != 200:
            raise self._refused("keep a locked object", answer.status_code)

    def latest(self) -> Sighting | None:
        """The greatest ever kept, whatever was put or marked as deleted in front of it."""
        found = self._oldest_version_of_the_first_key()
        if found is None:
            return None
        key, version = found
        query = {"versionId": version} if version not in ("", "null") else {}
        answer = self._requests.send("GET", key, query=query)
        if answer.status_code != 200:
            raise self._refused("give a sighting", answer.status_code)
        seen = sighting_of(answer.content, holder=self._name[0].lower() + self._name[1:])
        if self._key(seen.size) != key:
            raise Corrupt(
                f"{self._name} holds a sighting of {seen.size} records in another one's place.",
                hint="See who writes there; keep it as evidence.",
            )
        return seen

    def close(self) -> None:
        """Give the connections back."""
        self._requests.close()

    def _key(self, size: int) -> str:
        """Greater sizes come first in a listing."""
        return f"{self._prefix}{_MOST - size:020d}.json"

    def _oldest_version_of_the_first_key(self) -> tuple[str, str] | None:
        first, oldest = "", ""
        marker: dict[str, str] = {}
        while True:
            root = self._listing(marker)
            for item in root:
                if _plain(item.tag) != "Version":
                    continue  # a delete marker deletes nothing that was locked
                key = _text(item, "Key")
                if first and key != first:
                    return first, oldest
                first, oldest = key, _text(item, "VersionId")
            if _text(root, "IsTruncated") != "true":
                return (first, oldest) if first else None
            marker = {
                "key-marker": _text(root, "NextKeyMarker"),
                "version-id-marker": _text(root, "NextVersionIdMarker"),
            }

    def _listing(self, marker: dict[str, str]) -> ET.Element:
        query = {"versions": "", "prefix": self._prefix, "max-keys": str(_PAGE), **marker}
        answer = self._requests.send("GET", query=query)
        if answer.status_code != 200:
            raise self._refused("list its versions", answer.status_code)
        if b"<!DOCTYPE" in answer.content or b"<!ENTITY" in answer.content:
            raise self._refused("list its versions as S3 does", answer.status_code)
        try:
            return ET.fromstring(answer.content)  # noqa: S314 - entities were refused
        except ET.ParseError:
            raise self._refused("list its versions as S3 does", answer.status_code) from None

    def _refused(self, what: str, status: int) -> Unavailable:
        return Unavailable(
            f"{self._name} does not {what} (status {status}).",
            hint="The bucket needs object lock, and its keys need s3:PutObject, "
            "s3:PutObjectRetention, s3:GetObjectVersion and s3:ListBucketVersions.",
        )


def _plain(tag: str) -> str:
    return tag.rpartition("}")[2]


def _text(item: ET.Element, name: str) -> str:
    return next((child.text or "" for child in item if _plain(child.tag) == name), "")
