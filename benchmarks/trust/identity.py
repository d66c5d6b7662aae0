"""What identity costs: policy decisions, access tokens, the revocation epoch, argon2id.

Nobody else makes these decisions in the same place, so they stand alone, but for argon2id:
its floor is argon2's own time for one hash with these parameters.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, in_turn, median, quantile, report

from falaj.interfaces.signedrequests import SigningKey
from falaj.kernel.actions import Action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database, metadata
from falaj.kernel.ports import Resource
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.bindings import Presented
from falaj.trust.epochs import Epochs
from falaj.trust.passwords import Passwords
from falaj.trust.policy import CedarPolicy
from falaj.trust.proofs import Proofs
from falaj.trust.tokens import Tokens

AMINA = Principal("user:amina", PrincipalKind.USER, ("ml_engineer",))


VERSIONS = {name: version(name) for name in ("cedarpy", "joserfc", "argon2-cffi")}


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    count = 1_000 if given.size == "small" else 10_000
    rows = policy(count)
    with tempfile.TemporaryDirectory() as name:
        rows += tokens(Path(name), count)
    rows.append(passwords(10 if given.size == "small" else 30))
    report("trust", "Decisions, tokens and passwords", rows, given)


def told(name: str, work: Sequence[Callable[[], object]]) -> list[Row]:
    """Time each piece of work once: the median and the 99th percentile, in µs."""
    taken = []
    for piece in work:
        started = time.perf_counter()
        piece()
        taken.append((time.perf_counter() - started) * 1e6)
    size = f"{len(taken):,} times"
    return [
        Row(f"{name}, p50", size, "µs", median(taken), versions=VERSIONS),
        Row(f"{name}, p99", size, "µs", quantile(taken, 0.99), versions=VERSIONS),
    ]


def added_policies(n: int) -> dict[str, str]:
    """An operator's own policies, so that the set has a realistic size."""
    groups = ("engineer", "experiment", "operate", "steward", "read", "data", "serve", "change")
    texts = {}
    for number in range(n):
        group = groups[number % len(groups)]
        texts[f"own{number}"] = (
            f'@id("own{number}") forbid (principal, action in Action::"{group}", resource) '
            f'when {{ resource has region && resource.region == "region-{number}" }};'
        )
    return texts


def policy(count: int) -> list[Row]:
    """Decisions, new and remembered, with sets of policies of three sizes."""
    actions = [
        Action(f"service{at % 15}", f"verb{at}", "POST", "/x", "model", False, True, len)
        for at in range(120)
    ]
    actions.append(Action("models", "promote", "POST", "/x", "model", False, True, len))
    caller = Caller(AMINA)
    assets = [
        Resource(AssetRef("model", str(at)), {"owner": "user:omar", "region": "ae-auh"})
        for at in range(count)
    ]
    rows = []
    for n_added in (0, 20, 80):
        cedar = CedarPolicy(actions, added=added_policies(n_added))
        asked = [
            lambda what=what, cedar=cedar: cedar.decide(
                caller, "models.promote", what, stepped_up=True
            )
            for what in assets
        ]
        rows += told(f"decision, new, {n_added} added policies", asked)
        rows += told(f"decision, remembered, {n_added} added policies", asked)
    return rows


def tokens(folder: Path, count: int) -> list[Row]:
    """Issuing and verifying, and the read that keeps revocations fresh."""
    clock = SystemClock()
    keys = FileKeyring.create(folder / "keys", MachineSeal.create(folder / "seal"), clock=clock)
    database = Database(f"sqlite:///{folder}/falaj.db")
    metadata.create_all(database.engine)
    issuer = Tokens(keys, Epochs(database), issuer="https://falaj.test")
    now = clock.now()

    def issue(session: str) -> str:
        return issuer.issue(AMINA, session=session, account_epoch=0, mfa_at=now, now=now)[0]

    issued = [issue(f"session_{at}") for at in range(count)]
    rows = told("token issued", [lambda: issue("session_x")] * count)
    verified = [lambda text=text: issuer.verify(text, now) for text in issued]
    rows += told("token verified, new", verified)
    rows += told("token verified, known", verified)
    rows += signed_requests(count)
    stale = Epochs(database, fresh_for=timedelta(0))
    rows += told("revocation epoch read (twice a second)", [lambda: stale.current(now)] * 300)
    database.close()
    return rows


def signed_requests(count: int) -> list[Row]:
    """Making and checking the proof of a signed request (DPoP); each is new, as they must be."""
    now, url, token = SystemClock().now(), "https://falaj.test:8443/api/me", "a.b.c"
    proofs, key = Proofs(lambda: bytes(32)), SigningKey.new()
    nonce = proofs.nonce(now)
    made = [lambda: key.proof("GET", url, token=token, nonce=nonce)] * count
    rows = told("request signed (DPoP, Ed25519)", made)
    shown = [Presented(proof=work(), method="GET", url=url, scheme="dpop") for work in made]
    checks = [lambda one=one: proofs.key_of(one, now, token=token) for one in shown]
    return rows + told("signed request checked", checks)


def passwords(rounds: int) -> Row:
    """One comparison with the default parameters, against the bare hash."""
    kept = Passwords()
    hashed = kept.hash("seven camels cross the wadi")
    ours, floor = in_turn(
        lambda: kept.fits(hashed, "wrong"),
        lambda: hash_secret_raw(b"wrong", bytes(16), 3, 65_536, 4, 32, Type.ID),
        rounds=rounds,
    )
    return Row(
        "argon2id, 64 MiB, 3 passes",
        f"{rounds} times",
        "ms",
        median(ours) * 1e3,
        floor=median(floor) * 1e3,
        versions=VERSIONS,
    )


if __name__ == "__main__":
    main()
