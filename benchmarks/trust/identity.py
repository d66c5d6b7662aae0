"""What identity costs: policy decisions, access tokens, the revocation epoch, argon2id.

Run: ``PYTHONPATH=src python benchmarks/trust/identity.py``
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from falaj.kernel.actions import Action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database, metadata
from falaj.kernel.ports import Resource
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.epochs import Epochs
from falaj.trust.passwords import Passwords
from falaj.trust.policy import CedarPolicy
from falaj.trust.tokens import Tokens

AMINA = Principal("user:amina", PrincipalKind.USER, ("ml_engineer",))


def show(name: str, work: Sequence[Callable[[], object]]) -> None:
    """Time each piece of work once and print the median and the 99th percentile."""
    taken = []
    for piece in work:
        started = time.perf_counter_ns()
        piece()
        taken.append((time.perf_counter_ns() - started) / 1_000)
    taken.sort()
    n = len(taken)
    print(f"{name:42} p50 {taken[n // 2]:9.2f} µs   p99 {taken[n * 99 // 100]:9.2f} µs   n={n}")


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


def policy() -> None:
    """Decisions, new and remembered."""
    actions = [
        Action(f"service{at % 15}", f"verb{at}", "POST", "/x", "model", False, True, len)
        for at in range(120)
    ]
    actions.append(Action("models", "promote", "POST", "/x", "model", False, True, len))
    caller = Caller(AMINA)
    assets = [
        Resource(AssetRef("model", str(at)), {"owner": "user:omar", "region": "ae-auh"})
        for at in range(2_000)
    ]
    for n_added in (0, 80):
        cedar = CedarPolicy(actions, added=added_policies(n_added))
        asked = [
            lambda what=what, cedar=cedar: cedar.decide(
                caller, "models.promote", what, stepped_up=True
            )
            for what in assets
        ]
        show(f"decision, new, {n_added} added policies", asked)
        show(f"decision, remembered, {n_added} added policies", asked)


def tokens(folder: Path) -> None:
    """Issuing and verifying, and the read that keeps revocations fresh."""
    clock = SystemClock()
    keys = FileKeyring.create(folder / "keys", MachineSeal.create(folder / "seal"), clock=clock)
    database = Database(f"sqlite:///{folder}/falaj.db")
    metadata.create_all(database.engine)
    issuer = Tokens(keys, Epochs(database), issuer="https://falaj.test")
    now = clock.now()

    def issue(session: str) -> str:
        return issuer.issue(AMINA, session=session, account_epoch=0, mfa_at=now, now=now)[0]

    issued = [issue(f"session_{at}") for at in range(1_000)]
    show("token issued", [lambda: issue("session_x")] * 1_000)
    verified = [lambda text=text: issuer.verify(text, now) for text in issued]
    show("token verified, new", verified)
    show("token verified, known", verified)
    stale = Epochs(database, fresh_for=timedelta(0))
    show("revocation epoch read (twice a second)", [lambda: stale.current(now)] * 300)
    database.close()


def passwords() -> None:
    """One comparison with the default parameters."""
    kept = Passwords()
    hashed = kept.hash("seven camels cross the wadi")
    show("argon2id, 64 MiB, 3 passes", [lambda: kept.fits(hashed, "wrong")] * 10)


if __name__ == "__main__":
    policy()
    with tempfile.TemporaryDirectory() as name:
        tokens(Path(name))
    passwords()
