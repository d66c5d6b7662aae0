"""Values between steps: sealed in the blob store, named by their content, checked before use."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from falaj.training.pipelines.code import imported, reached_modules
from falaj.training.pipelines.frames import FILE, NONE
from falaj.training.pipelines.model import KeptValue

if TYPE_CHECKING:
    from falaj.lake.blobs import SealedBlobs
    from falaj.training.pipelines.frames import Packed
    from falaj.training.pipelines.model import Pipeline, PipelineStep

Outputs = dict[str, KeptValue]
PREFIX = "pipeline-values"
"""Of the keys in the blob store: they are forgotten by a rule of their own."""


class Values:
    """Keeps what steps give.

    Args:
        blobs: seals them; of a prefix of their own.
    """

    def __init__(self, blobs: SealedBlobs) -> None:
        self._blobs = blobs

    def kept(self, outputs: Mapping[str, Packed]) -> Outputs:
        """Keep what a step gave; what is kept already is kept once."""
        return {name: self._kept(value) for name, value in outputs.items()}

    def fetched(self, value: KeptValue) -> Packed:
        """A value; raises NotFound if it was forgotten, Corrupt if it was changed."""
        if value.form == NONE:
            return {"form": NONE, "data": b""}
        data = self._blobs.fetch(value.digest)
        named = {"name": value.name} if value.form == FILE else {}
        return {"form": value.form, "data": data, **named}

    def there(self, outputs: Mapping[str, KeptValue]) -> bool:
        """True if every one of these is still kept."""
        return all(
            value.form == NONE or self._blobs.has(value.digest) for value in outputs.values()
        )

    def _kept(self, value: Packed) -> KeptValue:
        if value["form"] == NONE:
            return KeptValue(form="none")
        data = bytes(value["data"])
        return KeptValue(
            form=value["form"],
            digest=self._blobs.keep(data),
            size=len(data),
            name=value.get("name", ""),
        )


def cache_key(
    pipeline: Pipeline,
    step: PipelineStep,
    inputs: Mapping[str, Any],
    *,
    principal: str,
    applied_by: str,
) -> str:
    """What a step's value depends on, and whose it is, as SHA-256 in hex.

    The text that is run and that of its modules, the version of Python and of the packages that
    the text imports, and the content of each input. One process runs the steps of a run, so an
    earlier step can change what a later one gives: a value is therefore of its pipeline, of the
    principal of the run, and of whoever applied the texts that ran beside it, and no other takes
    it.

    Args:
        inputs: by argument: a digest of a value, a parameter, or a table's name and extent.
        principal: as whom the run runs.
        applied_by: who applied the version of the pipeline.
    """
    modules = reached_modules(step.source, pipeline.modules)
    told = {
        "whose": [pipeline.name, principal, applied_by],
        "function": step.function,
        "source": step.source,
        "modules": modules,
        "outputs": step.outputs,
        "python": list(sys.version_info[:2]),
        "packages": {
            name: found
            for text in (step.source, *modules.values())
            for name in sorted(imported(text) - set(modules))
            if (found := _versions(name))
        },
        "inputs": inputs,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def value_facts(value: KeptValue) -> list[str]:
    """What a key says of a value."""
    return [value.form, value.digest, value.name]


@lru_cache(maxsize=1024)
def _versions(module: str) -> tuple[str, ...]:
    """The versions of the distributions that bring a module; none for Python's own."""
    from importlib.metadata import version

    if module in sys.stdlib_module_names:
        return ()
    found = _distributions().get(module, [])
    return tuple(f"{name} {version(name)}" for name in sorted(set(found)))


@lru_cache(maxsize=1)
def _distributions() -> Mapping[str, list[str]]:
    from importlib.metadata import packages_distributions

    return packages_distributions()


__all__ = ["PREFIX", "Outputs", "Values", "cache_key", "value_facts"]
