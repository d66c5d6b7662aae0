"""What people say of models and versions: that there is one, descriptions and tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, insert, select

from falaj.kernel.actions import is_writable
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import AlreadyExists, InvalidInput
from falaj.models.model import Model, ModelVersion
from falaj.models.reading import ALIVE
from falaj.models.registry import version_ref
from falaj.models.tables import model_rows, tag_rows, version_tag_rows

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.models.registry import Registry

LONGEST_KEY = 250
LONGEST_VALUE = 100_000
LONGEST_DESCRIPTION = 100_000
MOST_TAGS = 100
"""In one call."""


class Descriptions:
    """Sets what a model or a version is said to be; none of it changes what may be served."""

    def __init__(self, registry: Registry, catalog: Catalog) -> None:
        self._registry = registry
        self._catalog = catalog

    def create(
        self, call: Call, model: str, description: str = "", tags: Mapping[str, str] | None = None
    ) -> Model:
        """Make a model without any version.

        A model of that name that was deleted comes back without what was said of it; its
        versions stay deleted, and its numbers go on where they ended.

        Raises:
            AlreadyExists: there is one.
        """
        there = select(model_rows.c.name).where(model_rows.c.name == model, ALIVE)
        if call.connection.execute(there).first() is not None:
            raise AlreadyExists(
                f"The model {model!r} exists already.", hint="`falaj models list` shows all."
            )
        self._registry.ensured(call, model)
        if description:
            self.describe(call, model, description)
        if tags:
            self.tag(call, model, tags)
        call.emit("model.created", model=model)
        return self._registry.model(call.connection, model)

    def describe(self, call: Call, model: str, description: str) -> Model:
        """Say what a model is; an empty text clears what was said. Raises NotFound."""
        self._registry.locked(call.connection, model)
        said = _told("description", description, LONGEST_DESCRIPTION)
        self._registry.changed(call, model, description=said)
        self._catalog.describe(call, AssetRef("model", model), description=said)
        return self._registry.model(call.connection, model)

    def describe_version(
        self, call: Call, model: str, version: int, description: str
    ) -> ModelVersion:
        """Say what a version is; an empty text clears what was said. Raises NotFound."""
        found = self._registry.version(call.connection, model, version)
        said = _told("description", description, LONGEST_DESCRIPTION)
        self._registry.version_changed(call, found, description=said)
        self._catalog.describe(call, version_ref(model, version), description=said)
        return self._registry.version(call.connection, model, version)

    def tag(self, call: Call, model: str, tags: Mapping[str, str]) -> None:
        """Set tags of a model; an older value of the same key is replaced. Raises NotFound."""
        self._registry.locked(call.connection, model)
        kept = _checked(tags)
        self._forget(call, model, tags)
        rows = [{"model": model, "key": key, "value": value} for key, value in kept.items()]
        if rows:
            call.connection.execute(insert(tag_rows), rows)

    def tag_version(self, call: Call, model: str, version: int, tags: Mapping[str, str]) -> None:
        """As ``tag``, of a version."""
        self._registry.locked(call.connection, model)
        self._registry.version(call.connection, model, version)
        kept = _checked(tags)
        self._forget(call, model, tags, version)
        rows = [
            {"model": model, "version": version, "key": key, "value": value}
            for key, value in kept.items()
        ]
        if rows:
            call.connection.execute(insert(version_tag_rows), rows)

    def untag(self, call: Call, model: str, keys: Iterable[str]) -> None:
        """Take tags of a model away; one that is not there is no error. Raises NotFound."""
        self._registry.locked(call.connection, model)
        self._forget(call, model, keys)

    def untag_version(self, call: Call, model: str, version: int, keys: Iterable[str]) -> None:
        """As ``untag``, of a version."""
        self._registry.locked(call.connection, model)
        self._registry.version(call.connection, model, version)
        self._forget(call, model, keys, version)

    @staticmethod
    def _forget(call: Call, model: str, keys: Iterable[str], version: int | None = None) -> None:
        table = tag_rows if version is None else version_tag_rows
        wanted = and_(table.c.model == model, table.c.key.in_(list(keys)))
        if version is not None:
            wanted = and_(wanted, table.c.version == version)
        call.connection.execute(delete(table).where(wanted))


def _checked(tags: Mapping[str, str]) -> dict[str, str]:
    if len(tags) > MOST_TAGS:
        raise InvalidInput(
            f"{len(tags)} tags are given at once.", hint=f"Set at most {MOST_TAGS} in one call."
        )
    for key, value in tags.items():
        if not key:
            raise InvalidInput("The key of a tag is empty.", hint="Name the tag.")
        _told("key of a tag", key, LONGEST_KEY)
        _told(f"tag {key!r}", value, LONGEST_VALUE)
    return dict(tags)


def _told(what: str, text: str, longest: int) -> str:
    """The text, if every database can hold it."""
    if len(text) > longest:
        raise InvalidInput(
            f"The {what[:80]} has {len(text)} characters.", hint=f"At most {longest} are kept."
        )
    if not is_writable(text):
        raise InvalidInput(f"The {what[:80]} is not plain text.", hint="Leave out NUL characters.")
    return text
