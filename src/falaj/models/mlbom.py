"""The bill of materials of a bundle: CycloneDX 1.6, with a model card, written as JSON.

It names the model and its files with digests, the training set, and every distribution of
the environment that packaged it with its licence. It stands in the bundle as ``bom.json``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import Corrupt
from falaj.models.signing import canonical, root
from falaj.training.distributions import UNKNOWN, Distribution

if TYPE_CHECKING:
    from falaj.models.model import Manifest
    from falaj.models.vulnerabilities import Finding

BOM = "bom.json"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_MODEL, _ROWS = "model", "training-set"
_SHA256 = "sha256:"
_SPACE = uuid.UUID("6c1f1f0e-6f0c-5c8e-9d0b-2f2f6d3a7b10")


def bill(
    manifest: Manifest, digests: Mapping[str, str], installed: Sequence[Distribution]
) -> bytes:
    """The bill of materials of a model, as canonical JSON.

    Args:
        manifest: of the bundle.
        digests: SHA-256 of each of its files, by name.
        installed: the distributions that were there when it was packaged.
    """
    rows = [_training_set(manifest)] if manifest.training_set else []
    libraries = [_library(one) for one in installed]
    depends = [*(one["bom-ref"] for one in rows), *(one["bom-ref"] for one in libraries)]
    document = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, root(digests))}",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created_at.isoformat(),
            "tools": {
                "components": [
                    {"type": "application", "name": "falaj", "version": version("falaj")}
                ]
            },
            "component": _model(manifest, digests),
        },
        "components": [*rows, *libraries],
        "dependencies": [{"ref": _MODEL, "dependsOn": depends}],
    }
    return canonical(document)


def distributions(document: Mapping[str, Any]) -> list[Distribution]:
    """The distributions that a bill names; raises Corrupt if it cannot be read."""
    try:
        return [
            Distribution(name=str(one["name"]), version=str(one["version"]), **_licence_in(one))
            for one in document["components"]
            if one["type"] == "library"
        ]
    except (KeyError, TypeError, IndexError) as error:
        raise _unreadable() from error


def read(data: bytes) -> dict[str, Any]:
    """A bill as a document; raises Corrupt if it is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _unreadable() from error
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        raise _unreadable()
    return document


def with_vulnerabilities(document: dict[str, Any], found: Iterable[Finding]) -> dict[str, Any]:
    """A bill with the vulnerabilities that are known of its distributions today."""
    told = [
        {
            "id": one.advisory,
            "ratings": [{"severity": one.severity.cyclonedx}],
            **({"description": one.summary} if one.summary else {}),
            "affects": [{"ref": one.purl}],
        }
        for one in found
    ]
    return {**document, "vulnerabilities": told}


def _model(manifest: Manifest, digests: Mapping[str, str]) -> dict[str, Any]:
    made = manifest.run or (manifest.brought.sha256[:12] if manifest.brought else "")
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": manifest.model,
        **({"version": made} if made else {}),
        "hashes": _hashes(digests[manifest.model_format.file]),
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "classification",
                "architectureFamily": manifest.trainer,
                **({"datasets": [{"ref": _ROWS}]} if manifest.training_set else {}),
                "inputs": [
                    {"format": f"{one.name}: {one.type}"}
                    for one in manifest.signature.encoding.features
                ],
                "outputs": [{"format": f"probability of {manifest.signature.label}: float32"}],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {"type": name, "value": repr(value)}
                    for name, value in sorted(manifest.metrics.items())
                ]
            },
        },
        "components": [
            {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _hashes(digest)}
            for name, digest in sorted(digests.items())
        ],
    }


def _training_set(manifest: Manifest) -> dict[str, Any]:
    """The rows that it learned from, or (of a model that was brought) that judge it."""
    digest = manifest.training_set_hash.removeprefix(_SHA256)
    whole = len(digest) == 64
    return {
        "type": "data",
        "bom-ref": _ROWS,
        "name": manifest.training_set,
        **({"hashes": _hashes(digest)} if whole else {}),
        "data": [{"type": "dataset", "name": manifest.training_set}],
    }


def _library(one: Distribution) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
    }
    if one.spdx:
        found["licenses"] = [{"expression": one.licence}]
    elif one.licence != UNKNOWN:
        found["licenses"] = [{"license": {"name": one.licence}}]
    return found


def _licence_in(component: Mapping[str, Any]) -> dict[str, Any]:
    licences = component.get("licenses")
    if not licences:
        return {"licence": UNKNOWN, "spdx": False}
    if "expression" in licences[0]:
        return {"licence": str(licences[0]["expression"]), "spdx": True}
    return {"licence": str(licences[0]["license"]["name"]), "spdx": False}


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _unreadable() -> Corrupt:
    return Corrupt(
        "The bill of materials of the bundle cannot be read.", hint="Package the model again."
    )
