"""``falaj doctor``: every component that the settings name, checked by using it."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rich.markup import escape
from rich.table import Table

from falaj.kernel.errors import FalajError
from falaj.kernel.ids import new_id
from falaj.kernel.settings import Settings

if TYPE_CHECKING:
    from falaj.interfaces.session import Session
    from falaj.wiring.assembly import Premises

LEAST_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    component: str
    well: bool
    told: str
    hint: str = ""


class Unwell(FalajError):
    """A component works, but not as it should."""

    code = "unwell"


def examine(session: Session) -> int:
    """Run all checks and print them; returns the exit code (0: all is well)."""
    settings = Settings.read(session.folder)
    findings = list(examined(settings))
    if session.as_json:
        session.show([vars(finding) for finding in findings])
    else:
        table = Table("component", "", "found", box=None, header_style="bold")
        for finding in findings:
            mark = "[green]well[/]" if finding.well else "[bold red]ill[/]"
            hint = f"\n→ {escape(finding.hint)}" if finding.hint else ""
            table.add_row(finding.component, mark, escape(finding.told) + hint)
        session.console.print(table)
    return 0 if all(finding.well for finding in findings) else 1


def examined(settings: Settings) -> Iterator[Finding]:
    """The findings, one for each component, in the order in which they depend on each other."""
    from falaj.interfaces import doctor_programs
    from falaj.wiring.assembly import Premises

    premises = Premises(settings, process="doctor")
    checks: dict[str, Callable[[Premises], str]] = {
        "home": _home,
        "keys": _keys,
        "database": _database,
        "audit": _audit,
        "lake": _lake,
        "subject keys": _subject_keys,
        "blobs": _blobs,
        "feature index": _index,
        "online store": _online,
        "event log": _event_log,
        "compute": _compute,
        "supply chain": _supply_chain,
        "certificate": _certificate,
        "ports": _ports,
        "sign-in": _sign_in,
        **{
            f"identity provider {name}": partial(_provider, name=name)
            for name in settings.identity.providers
        },
        "provisioning": doctor_programs.provisioning,
        "ci": doctor_programs.ci,
        "receivers of alerts": doctor_programs.receivers,
    }
    try:
        for component, check in checks.items():
            try:
                yield Finding(component, True, check(premises))
            except FalajError as error:
                yield Finding(component, False, error.message, error.hint)
    finally:
        premises.close()


_LEAST_DAYS = 14
"""An operator's own certificate that ends sooner is told as a finding."""


def _home(made: Premises) -> str:
    home = made.settings.home
    if not home.is_dir():
        raise Unwell(f"There is no folder {home}.", hint="Run `falaj init`.")
    mode = stat.S_IMODE(os.stat(home).st_mode)  # noqa: PTH116 - the mode is what we ask for
    if mode & 0o077:
        raise Unwell(
            f"Others than its owner can look into {home} (mode {mode:o}).",
            hint=f"chmod 700 {home}",
        )
    free = shutil.disk_usage(home).free
    if free < LEAST_FREE_BYTES:
        raise Unwell(f"Only {free / 1e6:.0f} MB are free at {home}.", hint="Free some space.")
    return f"{home}, private, {free / 1e9:.0f} GB free"


def _keys(made: Premises) -> str:
    from falaj.wiring.keyservices import sealed_by

    data_key = os.urandom(32)
    wrapped = made.keys.wrap(data_key, context="doctor")
    if made.keys.unwrap(wrapped, context="doctor") != data_key:
        raise Unwell("The key service does not give back what it wrapped.")
    sealed = sealed_by(made.settings)
    return f"{made.settings.keys} {len(made.keys.versions())} key versions, {sealed}"


def _database(made: Premises) -> str:
    from falaj.kernel.schema import current, head
    from falaj.wiring.setup import MIGRATIONS

    revision, newest = current(made.database), head(MIGRATIONS)
    if revision is None:
        raise Unwell(f"{made.database.shown_url} is empty.", hint="Run `falaj init`.")
    if revision != newest:
        raise Unwell(
            f"{made.database.shown_url} has schema {revision}, this version needs {newest}.",
            hint="Start `falaj up` or open the platform once; it brings the schema up to date.",
        )
    _proven_server(made)
    return f"{made.database.shown_url}, schema {revision}"


def _proven_server(made: Premises) -> None:
    """Raises Unwell if a PostgreSQL elsewhere need not prove who it is."""
    from falaj.kernel.postgres_tls import is_here, is_verified, parameters_of

    for setting, url in (
        ("database", made.settings.database_url),
        ("lake", made.settings.lake_url.partition("postgres:")[2]),
    ):
        given = parameters_of(url) if "postgres" in url or setting == "lake" else {}
        if given and not is_here(given) and not is_verified(given):
            raise Unwell(
                f"The PostgreSQL of the setting {setting} is asked over TLS, but need not prove "
                "who it is.",
                hint="Name the authority of its certificate in database_ca_file.",
            )


def _audit(made: Premises) -> str:
    with made.database.reading() as connection:
        return f"{made.audit.size(connection)} records (`falaj audit verify` proves them)"


def _lake(made: Premises) -> str:
    kind = ":".join(made.settings.lake.split(":")[:2])  # what follows may hold a password
    data = made.settings.lake_data.split("?")[0]
    tables, snapshot = len(made.lake.tables()), made.lake.latest()
    return f"{kind} with data in {data} {tables} tables, snapshot {snapshot}"


def _subject_keys(made: Premises) -> str:
    from falaj.wiring.privacyparts import weaknesses

    found = weaknesses(made)
    if found:
        raise Unwell(" ".join(what for what, _ in found), hint=" ".join(do for _, do in found))
    place = made.settings.privacy.subject_keys.split("?")[0]
    table = made.subject_keys.table
    replica = "replicated" if made.settings.privacy.replica else "WITHOUT a replica"
    return f"{place} {table.count()} keys, {table.sequence()} destroyed, {replica}"


def _blobs(made: Premises) -> str:
    data = new_id("event").encode()
    digest = made.blobs.keep(data)
    try:
        if made.blobs.fetch(digest) != data:
            raise Unwell("The blob store does not give back what was kept.")
    finally:
        made.blobs.forget(digest)
    return f"{made.settings.blobs.split('?')[0]} keeps and gives back, encrypted"


def _index(made: Premises) -> str:
    folder = made.settings.home / "index"
    n_bytes = sum(file.stat().st_size for file in folder.glob("*.run"))
    if made.settings.feature_index == "clear":
        return f"{n_bytes / 1e6:.0f} MB in CLEAR in {folder}: its volume must be encrypted"
    return f"{n_bytes / 1e6:.0f} MB in {folder}, sealed"


def _online(made: Premises) -> str:
    made.online.read([b"doctor"])
    _not_weak(made.online)
    return f"{made.settings.online.split('?')[0]} answers"


def _event_log(made: Premises) -> str:
    _not_weak(made.event_log)
    clear = made.settings.event_log != "segments:" and (
        made.settings.streams.kafka_records == "clear"
    )
    told = ", events lie there in CLEAR" if clear else ""
    return f"{made.settings.event_log.split('?')[0]} answers{told}"


def _compute(made: Premises) -> str:
    from falaj.wiring import stores

    kind, place = stores.compute_place(made.settings)
    if kind == "ray" and not place:
        return "a Ray that each job starts here"
    opened = stores.compute(made.settings)  # processes begin with their first task
    try:
        told = "processes here" if kind == "local" else f"tasks at a time on {place}"
        return f"{opened.n_slots} {told}, {made.settings.compute_memory_bytes >> 20} MB each"
    finally:
        opened.close()


def _supply_chain(made: Premises) -> str:
    from falaj.training.distributions import installed
    from falaj.wiring.supplyparts import advisories

    taken = made.settings.supply_chain.pickles
    pickles = "pickles TAKEN, in a confined process" if taken else "pickles refused"
    known = advisories(made)
    if known is None:
        return f"no file of vulnerabilities is named; {pickles}"
    found = known.of(installed())
    since = "unknown age" if found.newest is None else f"the newest of {found.newest:%Y-%m-%d}"
    return (
        f"{found.n_records} advisories ({since}), {len(found.findings)} known of what is "
        f"installed here; {pickles}"
    )


@runtime_checkable
class Candid(Protocol):
    """A store on somebody else's server, which can say what is weak about that."""

    def weaknesses(self) -> Iterable[tuple[str, str]]:
        """What breaks or weakens a promise, and what to do about it."""
        ...


def _not_weak(store: object) -> None:
    """Raises Unwell with all that a store says of its server."""
    found = list(store.weaknesses()) if isinstance(store, Candid) else []
    if found:
        raise Unwell(" ".join(what for what, _ in found), hint=" ".join(do for _, do in found))


def _certificate(made: Premises) -> str:
    certificate, _key = made.server_certificate()
    from cryptography import x509

    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    left = found.not_valid_after_utc - made.clock.now()
    if left.days < 0:
        raise Unwell(f"The certificate {certificate} has expired.", hint="Give a new one.")
    own = made.settings.http.certificate_file is None
    if left.days < _LEAST_DAYS and not own:
        raise Unwell(
            f"The certificate {certificate} is good for {left.days} days only.",
            hint="Replace the file; running servers take it within a minute.",
        )
    authority = made.certificates.authority.checked().not_valid_after_utc - made.clock.now()
    renewed = "renewed by itself" if own else "yours to replace"
    return (
        f"{certificate}, good for {left.days} days, {renewed}; "
        f"the built-in authority (its key is sealed) for {authority.days} days"
    )


def _ports(made: Premises) -> str:
    from falaj.interfaces.supervisor import listening

    http, inference = made.settings.http, made.settings.inference
    if any(made.settings.home.glob("run/*.ready")):
        return "in use by this platform, which is up"
    for host, port, setting, key in (
        (http.host, http.port, "http", "port"),
        (inference.host, inference.port, "inference", "port"),
        (inference.host, inference.grpc_port, "inference", "grpc_port"),  # 0 is any free one
    ):
        listening(host, port, setting, key=key).close()
    grpc = f", {inference.host}:{inference.grpc_port}" if inference.grpc_port else ""
    return f"{http.host}:{http.port}{grpc} and {inference.host}:{inference.port} are free"


def _sign_in(premises: Premises) -> str:
    from falaj.interfaces.hosts import Addresses

    found = Addresses.of(premises.settings)
    passkeys = f"passkeys belong to {found.rp_id}" if found.rp_id else "no passkeys: no name"
    return f"pages at {', '.join(found.origins)}; {passkeys}"


def _provider(made: Premises, *, name: str) -> str:
    from falaj.wiring.federationparts import party

    found = party(made, name)
    provider = found.provider
    if provider.fixed is not None:
        return f"{provider.issuer}: {provider.label} publishes nothing that could be checked"
    metadata, keys = found.speaks.metadata(), found.speaks.keys("")
    told = f"{metadata.issuer} has {len(keys)} keys, signs {', '.join(sorted(metadata.algorithms))}"
    if not (provider.mfa_amr or provider.mfa_acr or provider.always_two_factors):
        told += "; nothing it says counts as two factors"
    return told
