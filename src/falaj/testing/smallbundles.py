"""A small bundle that no training made."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from falaj.models.bundles import CARD, MANIFEST, MODEL, STATISTICS
from falaj.models.model import Histogram, Manifest, Signature, Statistics
from falaj.models.signing import Statement, sha256
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.trust.signatures import ED25519

if TYPE_CHECKING:
    from falaj.lake.blobs import SealedBlobs
    from falaj.models.bundles import Bundles
    from falaj.trust.ports import KeyService

SMALL = Manifest(
    model="late",
    run="run_1",
    trainer="lightgbm",
    feature_service="delays",
    feature_service_fingerprint="f" * 64,
    definitions={},
    training_set="ts_1",
    training_set_hash="sha256:0",
    snapshot=3,
    signature=Signature(encoding=Encoding(features=(EncodedFeature(name="x"),)), label="late"),
    metrics={"validation_auc": 0.75},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
FILES = {
    MODEL: b"model bytes",
    CARD: "# Späte Flüge".encode(),
    STATISTICS: Statistics(n_rows=0, features=(), scores=Histogram(edges=(), counts=(0,)))
    .model_dump_json()
    .encode(),
}


class Kept(NamedTuple):
    """Bundles, and what they stand on."""

    bundles: Bundles
    blobs: SealedBlobs
    keys: KeyService


def old_bundle(kept: Kept) -> str:
    """The small bundle as it was kept before there were P-256 keys; its digest."""
    files = {**FILES, MANIFEST: SMALL.model_dump_json(indent=1).encode()}
    digests = {name: sha256(data) for name, data in files.items()}
    statement = Statement(SMALL.model, digests, ignored=())
    envelope = kept.bundles.signing.signed(statement.payload, (ED25519,)).model_dump()
    envelope["blobs"] = {name: kept.blobs.keep(data) for name, data in files.items()}
    return kept.blobs.keep(json.dumps(envelope).encode())
