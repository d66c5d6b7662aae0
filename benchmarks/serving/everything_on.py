"""Single-row predictions with everything on: our worker against servers that do none of it.

A request to ours names an entity. Our worker verifies an Ed25519 token, asks the Cedar
policy, assigns one of two variants by the entity, reads 20 online features from LMDB
(100,000 entities, written through the feature store), runs the variant's model (a
LightGBM classifier of 300 trees), writes the sealed prediction log and counts. The peers
get the same features in the body of the request and only run the model. One pinned core for
the server, the load comes from the other; a thousand distinct entities are asked in turn;
the scores of all are compared before anything is timed; who is not measured is stopped.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, report
from stand import ours
from stand.classifier import N_ASKED, N_FEATURES, make_classifier, scores_of
from stand.load import Load
from stand.peers import PEERS
from stand.processes import cores
from stand.turns import Contestant, measured, our_score, started, table, versions

N_ENTITIES = 100_000
TIMES = {"mlserver": 8, "triton": 8, "litserve": 15, "bentoml": 20, "fastapi": 2.5}
WORK = "one row, JSON, token + policy + variant + 20 features from LMDB + log"


def measure(folder: Path, *, rounds: int, seconds: float) -> list[Row]:
    """All servers in turn; the rows of the table."""
    server_core, client_core = cores()
    (folder / "second").mkdir()
    variants = [make_classifier(folder), make_classifier(folder / "second", seed=8)]
    chance = np.random.default_rng(5)
    values = chance.normal(size=(N_ENTITIES, N_FEATURES))
    entities = chance.choice(N_ENTITIES, N_ASKED, replace=False)
    rows = values[entities].astype(np.float32)
    scores = [scores_of(one.onnx, rows) for one in variants]
    connections = (16, 64)
    with (
        ours.opened(folder / "ours") as platform,
        started(PEERS, folder, rows, scores[0], server_core, client_core) as peers,
    ):
        ours.from_the_store(platform, variants, values)
        asked = ours.key_requests(entities.tolist(), platform)
        with ours.worker(platform, asked.now()[0], core=server_core) as server:
            load = Load(server.port, asked, core=client_core)
            agreed_by_variant(load, scores)
            mine = Contestant("ours", server, load)
            measured([mine, *peers.values()], connections, rounds=rounds, seconds=seconds)
        told = versions(PEERS)
        told |= {name: version(name) for name in ("onnxruntime", "lmdb", "cedarpy")}
        found = table(WORK, mine, peers, connections, told, times=TIMES)
        lost = platform.unlogged("looked")
    found.append(
        Row(
            f"{WORK}: answered but not logged",
            "whole run",
            "predictions",
            lost,
            goal="0",
            met=lost == 0,
            versions=told,
        )
    )
    return found


def agreed_by_variant(load: Load, scores: list[np.ndarray]) -> None:
    """Raise unless each answer is the score of the variant that it names, and both occur."""
    met: dict[str, int] = {}
    for place in range(0, N_ASKED, 25):
        told = load.ask(place)
        variant = told["predictions"][0]["variant"]
        met[variant] = met.get(variant, 0) + 1
        expected = scores[int(variant.removeprefix("variant")) - 1][place]
        if abs(our_score(told) - float(expected)) > 1e-5:
            raise RuntimeError(f"ours answers {told}, not {expected}")
    if len(met) != 2:
        raise RuntimeError(f"only {met} were asked: the variants are not assigned")


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rounds, seconds = (2, 1.0) if given.size == "small" else (5, 4.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=rounds, seconds=seconds)
    report("serving", "Single-row predictions with everything on, one server core", rows, given)


if __name__ == "__main__":
    main()
