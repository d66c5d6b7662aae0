"""A small bundle that no training made, and keys and blobs to keep it with."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from falaj.kernel.clock import SystemClock
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.blobs import SealedBlobs
from falaj.models.bundles import CARD, MANIFEST, MODEL, STATISTICS, Bundles
from falaj.models.model import Histogram, Manifest, Signature, Statistics
from falaj.models.signing import Statement, sha256
from falaj.training.encoding import EncodedFeature, Encoding
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.signatures import ED25519

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
    keys: FileKeyring


def kept_in(folder: Path) -> Kept:
    """A keyring and bundles of its own in a folder."""
    seal = MachineSeal.create(folder / "seal")
    keys = FileKeyring.create(folder / "ring", seal, clock=SystemClock())
    blobs = SealedBlobs(LocalBlobs(folder / "blobs"), keys)
    return Kept(Bundles(blobs, keys), blobs, keys)


def old_bundle(kept: Kept) -> str:
    """The small bundle as it was kept before there were P-256 keys; its digest."""
    files = {**FILES, MANIFEST: SMALL.model_dump_json(indent=1).encode()}
    digests = {name: sha256(data) for name, data in files.items()}
    statement = Statement(SMALL.model, digests, ignored=())
    envelope = kept.bundles.signing.signed(statement.payload, (ED25519,)).model_dump()
    envelope["blobs"] = {name: kept.blobs.keep(data) for name, data in files.items()}
    return kept.blobs.keep(json.dumps(envelope).encode())
