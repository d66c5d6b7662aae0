"""A small world: a whole platform in a folder, in the state in which its actions answer.

A CSV source, features, a training set, a run, a served model version, a monitor, a person
and the things that operations keep, made once in about five seconds and asked three ways:
through ``falaj.open``, through the HTTP application with ``RemoteDoor``, and by command.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from falaj.kernel.call import AssetRef, Call, Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor, face
from falaj.kernel.jobs import Worker
from falaj.kernel.settings import Settings
from falaj.operations.model import Severity
from falaj.testing.asked import command_line, command_words
from falaj.testing.worldcopies import copied

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from falaj.catalog.definitions import Definition
    from falaj.interfaces.platform import Platform
    from falaj.kernel.actions import Action
    from falaj.wiring.assembly import Premises

WAYS = ("python", "http", "command")
"""The doors of a platform."""
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
OWNER = "amina"
ENDPOINT = AssetRef("endpoint", "late")
_CARRIERS = ("AA", "UA", "WN")
_REVEALED = {"reveal_once": True}
_N_ROWS = 900
_KEPT_OPEN_SECONDS = 60.0


def write_flights(file: Path) -> None:
    """Made-up departures, whose ``signal`` tells with an AUC of about 0.85 if one was late."""
    chance = random.Random(7)  # noqa: S311 - made-up data
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(["flight", "carrier", "signal", "at", "delay", "late"])
        for place in range(_N_ROWS):
            carrier = chance.choice(_CARRIERS)
            signal = chance.gauss(0, 1)
            late = chance.random() < 1 / (1 + math.exp(-2 * signal))
            at = BEGIN + timedelta(hours=2 * place)
            delay = round((30 if late else 0) + chance.gauss(0, 1), 3)
            writer.writerow(
                [f"f{place:04}", carrier, round(signal, 6), at.isoformat(), delay, int(late)]
            )


def counted(n: int) -> dict[str, int]:
    """A step of the small world's pipeline."""
    return {"counted": n}


def definitions() -> list[Definition]:
    """What the small world declares."""
    from falaj import declare as of

    return [
        of.Source(
            name="flights", table="flights", path="flights.csv", key=("flight",), event_time="at",
            columns={"flight": "text", "carrier": "text", "signal": "number", "at": "instant",
                     "delay": "number", "late": "integer"},
        ),
        of.Contract(name="flights", table="flights", checks=(of.NotNull(column="carrier"),)),
        of.Entity(name="carrier", keys={"carrier": "string"}),
        of.FeatureView(
            name="recent", entity="carrier", source="flights", event_time="at",
            aggregates=(
                of.Aggregate("mean_2d", "mean", "delay", window=timedelta(days=2)),
                of.Aggregate("count_2d", "count", window=timedelta(days=2)),
            ),
        ),
        of.FeatureService(
            name="delays", features=("recent",),
            request_fields={"signal": "float64", "carrier": "string"},
        ),
        of.ModelPolicy(
            name="late", feature_service="delays", label="late", champion=None, calibration=None,
            latency=None, leakage=None, floors=(of.MetricRule(metric="auc", limit=0.6),),
        ),
        of.Endpoint(name="late", model="late"),
        of.Monitor(name="late-drift", endpoint="late", window=timedelta(days=7)),
        of.Pipeline.of(
            "counting", counted, parameters={"n": 1, "since": "", "until": ""},
            triggers=(of.Cron(expression="0 6 * * *", zone="Asia/Dubai"),),
        ),
    ]  # fmt: skip


def training_spec() -> dict[str, Any]:
    """The small world's training set."""
    return {
        "feature_service": "delays",
        "label": "late",
        "spine_query": 'SELECT carrier, signal, "at" AS timestamp, late FROM flights',
        "knowledge": "event",
        "split": {
            "train_until": (BEGIN + timedelta(days=45)).isoformat(),
            "validation_until": (BEGIN + timedelta(days=60)).isoformat(),
        },
    }


class World:
    """A platform with something of everything, and its three doors.

    Make it with ``made``; end it with ``close``.
    """

    def __init__(self, premises: Premises, folder: Path) -> None:
        self.premises = premises
        self.folder = folder
        self.facts: dict[str, str] = {}
        """Names of things that were made: ``run``, ``release``, ``prediction`` …"""
        self._made = 0
        self._platforms: dict[bool, tuple[float, Platform]] = {}

    @cached_property
    def http(self) -> TestClient:
        """The control plane's HTTP application."""
        from starlette.testclient import TestClient as Client

        from falaj.interfaces.processes import control_app

        app = control_app(self.premises)
        return Client(app, base_url="https://localhost", raise_server_exceptions=False)

    @classmethod
    @contextmanager
    def made(cls, folder: Path) -> Iterator[World]:
        """A world in an empty folder; everything is given back at the end."""
        known = copied(folder, cls._filled)
        with cls._opened_in(folder) as world:
            world.facts.update(known["facts"])
            world._made = known["made"]
            yield world

    @classmethod
    def _filled(cls, folder: Path) -> dict[str, Any]:
        """Fill an empty folder; what the world knows of itself."""
        from falaj.wiring import setup

        write_flights(folder / "flights.csv")
        setup.initialise(Settings.read(folder), owner=OWNER)
        with cls._opened_in(folder) as world:
            world._fill()
            return {"facts": world.facts, "made": world._made}

    @classmethod
    @contextmanager
    def _opened_in(cls, folder: Path) -> Iterator[World]:
        from falaj.wiring import assembly

        # Another world of this process may be open, and have put itself in its place.
        assemble = getattr(assembly.assemble, "replaced", assembly.assemble)
        premises = assemble(Settings.read(folder))
        close = premises.close
        # Stores that one process may open once are shared by all doors of the world.
        ours = mock.Mock(return_value=premises, replaced=assemble)
        shared = mock.patch("falaj.wiring.assembly.assemble", ours)
        with mock.patch.object(premises, "close", lambda: None), shared:
            try:
                yield cls(premises, folder)
            finally:
                close()

    # ---- who asks

    def caller(self, *, stepped_up: bool = True, nobody: bool = False) -> Caller:
        """The owner, or somebody without any role; with a fresh second factor or without."""
        if nobody:
            principal = Principal("user:nobody", PrincipalKind.USER)
        else:
            roles = self._owner().roles
            principal = Principal(f"user:{OWNER}", PrincipalKind.USER, tuple(map(str, roles)))
        return Caller(principal, mfa_at=self.premises.clock.now() if stepped_up else None)

    def token(self, caller: Caller) -> str:
        """An access token for a caller."""
        epoch = 0 if caller.principal.name == "nobody" else self._owner().epoch
        token, _ends = self.premises.tokens.issue(
            caller.principal,
            session="session_of_the_small_world",
            account_epoch=epoch,
            mfa_at=caller.mfa_at,
            now=self.premises.clock.now(),
        )
        return token

    def _owner(self) -> Any:
        with self.premises.database.reading() as connection:
            return self.premises.authentication.accounts.get(connection, OWNER)

    @contextmanager
    def opened(self, *, stepped_up: bool = True) -> Iterator[Platform]:
        """What ``falaj.open(folder)`` gives, with a fresh second factor if wanted."""
        import falaj

        with self._as_owner(stepped_up):
            yield falaj.open(self.folder)

    @contextmanager
    def _as_owner(self, stepped_up: bool) -> Iterator[None]:
        """Whoever opens the folder meanwhile has a fresh second factor if wanted."""
        authentication = self.premises.authentication
        by_key = authentication.by_key

        def with_factor(key: Any, *, via: str = "local") -> Caller:
            caller = by_key(key, via=via)
            return caller.with_factor(self.premises.clock.now()) if stepped_up else caller

        with mock.patch.object(authentication, "by_key", with_factor):
            yield

    # ---- asking

    def ask(
        self, way: str, action: Action, arguments: Mapping[str, Any], *, stepped_up: bool = True
    ) -> Any:
        """Ask one way; returns the result as JSON, raises the ``FalajError``."""
        asked = {"python": self._in_python, "http": self._over_http, "command": self._by_command}
        return asked[way](action, arguments, stepped_up)

    def _in_python(self, action: Action, arguments: Mapping[str, Any], stepped_up: bool) -> Any:
        service = getattr(self._at_hand(stepped_up), action.service)
        return _json(action, getattr(service, action.verb)(**arguments))

    def _at_hand(self, stepped_up: bool) -> Platform:
        """The folder's platform, opened anew once a minute: a second factor does not stay fresh."""
        kept = self._platforms.get(stepped_up)
        if kept is None or time.monotonic() - kept[0] > _KEPT_OPEN_SECONDS:
            with self.opened(stepped_up=stepped_up) as platform:
                kept = self._platforms[stepped_up] = (time.monotonic(), platform)
        return kept[1]

    def _over_http(self, action: Action, arguments: Mapping[str, Any], stepped_up: bool) -> Any:
        from falaj.interfaces.client import RemoteDoor
        from falaj.wiring.services import service_classes

        token = self.token(self.caller(stepped_up=stepped_up))
        service: Any = face(service_classes()[action.service], RemoteDoor(self.http, lambda: token))
        return _json(action, getattr(service, action.verb)(**arguments))

    def _by_command(self, action: Action, arguments: Mapping[str, Any], stepped_up: bool) -> Any:
        words = ["--folder", str(self.folder), "--json", action.service, action.command]
        told, wrong, code = io.StringIO(), io.StringIO(), 0
        with (
            self._as_owner(stepped_up),
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(wrong),
        ):
            try:
                command_line()([*words, *command_words(action, arguments)], prog_name="falaj")
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
        if code:
            raise RuntimeError(wrong.getvalue() + told.getvalue())
        return json.loads(told.getvalue())

    # ---- making things

    @contextmanager
    def call(self, principal: str = f"user:{OWNER}") -> Iterator[Call]:
        """A call for preparing a subject."""
        with self.premises.calls.opened("test.prepare", principal) as call:
            yield call

    def new(self, what: str) -> str:
        """A name that was not used before."""
        self._made += 1
        return f"{what}-{self._made}"

    def alert(
        self,
        severity: Severity = Severity.WARNING,
        about: AssetRef = ENDPOINT,
    ) -> str:
        """The id of a new alert; a critical one opens an incident too."""
        with self.call() as call:
            return self.premises.alerts.raise_alert(
                call, name=self.new("alert"), subject=about,
                severity=severity, message="Something is not as it should be.", evidence={},
            ).id  # fmt: skip

    def incident(self) -> str:
        """The id of a new incident, about an asset of its own."""
        model = self.copied_model()
        self.alert(Severity.CRITICAL, about=AssetRef("model", model))
        with self.premises.database.reading() as connection:
            found = self.premises.incidents.listed(connection)
        return max(found, key=lambda one: one.id).id

    def copied_model(self) -> str:
        """The name of a new model with one version, made by the world's run."""
        registry, name = self.premises.registry, self.new("model")
        with self.call() as call:
            bundle = registry.version(call.connection, "late", 1).bundle
            registry.register(call, name, run=self.facts["run"], bundle=bundle)
        return name

    def lone_model(self) -> str:
        """The name of a new model with one version, whose bundle no other version has."""
        from falaj.testing.registrysubjects import lone_model

        return lone_model(self)

    def change(self, requested_by: str = "user:omar") -> str:
        """The id of a new change that waits: a model's version to another stage."""
        from falaj.models.model import Stage

        name, promotions = self.copied_model(), self.premises.promotions
        with self.call(requested_by) as call:
            return str(promotions.ask(call, name, 1, Stage.ARCHIVED, "It is a copy.").id)

    def service_account(self) -> str:
        """The name of a new service account."""
        from falaj.trust.model import Role

        name = self.new("program")
        with self.call() as call:
            self.premises.authentication.accounts.create_service(
                call.connection, name=name, roles=(Role.SERVICE,), created_by="user:amina",
                now=call.now,
            )  # fmt: skip
        return name

    def provisioner(self) -> str:
        """The name of a new service account that may provision."""
        from falaj.trust.model import Role

        name = self.new("program")
        with self.call() as call:
            self.premises.authentication.accounts.create_service(
                call.connection, name=name, roles=(Role.PROVISIONER,), created_by="user:amina",
                now=call.now,
            )  # fmt: skip
        return name

    def provisioned(self, what: str) -> tuple[str, str]:
        """The id and the name of a new person (``user``) or ``group`` that the owner keeps."""
        name = self.new("person" if what == "user" else "group")
        given = {"user_name" if what == "user" else "display_name": name}
        action = self.premises.backend.services.actions[f"provisioning.create_{what}"]
        return door_of(self, self.caller()).call(action, given).id, name

    def session_of(self, name: str) -> str:
        """The id of a new session of an account."""
        authentication = self.premises.authentication
        with self.call() as call:
            account = authentication.accounts.get(call.connection, name)
            return authentication.sessions.begin(
                call.connection, account, now=call.now, client="a test", mfa_at=None, address=None
            ).id

    def person(self) -> str:
        """The name of a person who was invited and is active."""
        from falaj.trust.model import AccountState, Role

        name = self.new("person")
        with self.call() as call:
            self.premises.authentication.accounts.create(
                call.connection, name=name, kind=PrincipalKind.USER, roles=(Role.VIEWER,),
                created_by="user:amina", now=call.now, state=AccountState.ACTIVE,
            )  # fmt: skip
        return name

    def passkeys_of(self, name: str, *, n: int = 2) -> list[str]:
        """The ids of new passkeys of an account."""
        from falaj.trust.passkeys import Passkeys, Proof

        made = []
        with self.call() as call:
            account = self.premises.authentication.accounts.get(call.connection, name)
            for _ in range(n):
                proof = Proof(self.new("credential").encode(), 0, True, False, b"a key")
                made.append(
                    Passkeys().add(
                        call.connection, account.id, proof, name="phone", user_handle=b"x",
                        now=call.now,
                    ).id
                )  # fmt: skip
        return made

    def started_run(self) -> str:
        """The id of a run that has not ended."""
        with self.call() as call:
            return self.premises.runs.start(call, experiment="by-hand", params={}, tags={}).id

    def waiting_job(self) -> str:
        """The id of a job that waits."""
        with self.call() as call:
            return self.premises.jobs.submit(call, "sources.load", {}).id

    def sized_job(self) -> str:
        """The id of a job that waits and says what it needs."""
        with self.call() as call:
            needs = {"resources": {"cpus": 2}}
            return self.premises.jobs.submit(call, "test.sized", needs).id

    def spot_job(self) -> str:
        """The id of a job that runs on spot resources."""
        from falaj.kernel.fairqueue import Claim
        from falaj.kernel.resources import Resources

        jobs, kind = self.premises.jobs, self.new("test.spot")
        claim = Claim(team="everyone", resources=Resources(spot=True))
        with self.call() as call:
            jobs.submit(call, kind, {}, claim=claim)
            taken = jobs.take(call.connection, "somebody", [kind])
        assert taken is not None  # noqa: S101 - it was submitted a line above
        return taken.id

    def old_key(self) -> str:
        """The id of a version of the wrapping key that is no longer the active one."""
        keys = self.premises.keys
        keys.rotate("wrapping")
        held = [version for version in keys.versions() if version.purpose == "wrapping"]
        return held[-2].id

    def used_key(self) -> str:
        """Somebody on whose behalf a key was used, which is on record."""
        from falaj.trust.key_uses import ACTION, TELLER, KeyUse

        caller = f"service:{self.new('program')}"
        use = KeyUse(operation="sign", purpose="audit", key_id="key_1", kind="", caller=caller, n=3)
        with self.premises.calls.opened(ACTION, TELLER) as call:
            call.note(uses=[use.model_dump()], files=[])
        return caller

    def release(self) -> str:
        """The id of a new release that serves nothing yet."""
        with self.call() as call:
            return self.premises.serving.releases.deploy(call, "late").id

    def serving(self) -> str:
        """The id of a new release that serves, after another one did."""
        for _ in range(2):
            release = self.release()
            with self.call() as call:
                self.premises.serving.releases.activate(call, "late", release, wait_seconds=1.0)
        return release

    def with_statistics(self) -> str:
        """The name of a feature view with statistics."""
        from falaj.wiring.watching import statistics

        statistics(self.premises).update("recent")
        return "recent"

    def checked_parity(self) -> str:
        """The name of a feature service whose parity was checked."""
        from falaj.wiring.watching import parity_checks

        at = BEGIN + timedelta(days=200)
        with self.call() as call:
            parity_checks(self.premises).checked(call, "delays", 5, at=at)
        return "delays"

    def scaled(self) -> int:
        """How many of the newest scaling decisions to ask for: the one that is made here."""
        from falaj.serving.scalingrecords import ScalingRecord, ScalingRecords
        from falaj.serving.scalingtable import bring_in

        records = ScalingRecords(self.premises.settings.home / "scaling")
        told = {"pool": "local", "before": 1, "after": 2, "reason": "3 requests were shed"}
        records.keep(ScalingRecord(at=self.premises.clock.now(), utilisation=[0.9], **told))
        return bring_in(records, self.premises.calls)

    def work(self) -> None:
        """Run all jobs that wait."""
        worker = Worker(self.premises.jobs, self.premises.handlers, name="small-world")
        while worker.run_one():
            pass
        from falaj.models.model import ADOPT_JOB, BRING_JOB, QUANTIZE_JOB

        with self.premises.database.reading() as connection:
            jobs = self.premises.jobs.listed(connection)
        # These are asked about a model and a file with which they cannot succeed.
        asked = (ADOPT_JOB, BRING_JOB, QUANTIZE_JOB)
        failed = [job for job in jobs if job.error and job.kind not in asked]
        if failed:
            raise RuntimeError(f"the small world is broken: {failed}")

    def earlier_view(self) -> int:
        """A new version of the view ``recent`` that is current no more."""
        recent = next(one for one in definitions() if one.name == "recent").document()
        made = self.premises
        with self.call() as call:
            told = {**recent, "description": self.new("told")}
            for document in (told, recent):
                made.definitions.apply(call, [document])
            history = made.definitions.history(call.connection, "feature_view", "recent")
        return history[1].version

    def _fill(self) -> None:
        from falaj.models.model import Stage
        from falaj.training.model import TrainingRequest, TrainingSetSpec
        from falaj.trust.model import Role, jsonable_roles

        made = self.premises
        with self.call() as call:
            # An owner neither approves nor serves; in the small world one person does it all.
            roles = jsonable_roles(tuple(Role))
            made.authentication.accounts.change(
                call.connection, self._owner(), now=call.now, roles=roles
            )
            made.definitions.apply(call, [one.document() for one in definitions()])
        with self.opened() as platform:
            platform.sources.load("flights")
            self.work()
            platform.features.materialize("recent")
            self.facts["pipeline_run"] = platform.pipelines.run("counting").id
            small = {"n_trees": 15, "num_leaves": 7, "num_threads": 1}
            spec = TrainingSetSpec.model_validate(training_spec())
            platform.training.train(TrainingRequest(model="late", spec=spec, params=small))
            self.work()
            platform.models.gates("late", 1)
            self.work()
            version = platform.models.get("late", 1)
            self.facts["run"] = version.run
            self.facts["training_set"] = platform.training.sets()[0].id
            change = platform.models.promote(
                "late", 1, to=Stage.PRODUCTION, reason="It is better than nothing."
            )
        with self.call("user:omar") as call:
            made.changes.approve(call, change.id, "The evidence is good.")
        self.facts["change"] = change.id
        self.facts["release"] = self.serving()
        self._predict()
        self.facts["alert"] = self.alert()
        self.facts["incident"] = self.incident()
        self.facts["job"] = self.waiting_job()
        self.facts["person"] = self.person()
        self._report()

    def _predict(self) -> None:
        from falaj.serving.spools import PredictionDrain

        chance = random.Random(3)  # noqa: S311 - made-up data
        with self.opened() as platform:
            for place in range(20):
                answer = platform.endpoints.predict(
                    "late",
                    [
                        {"signal": chance.gauss(0, 1), "carrier": chance.choice(_CARRIERS)}
                        for _ in range(30)
                    ],
                    request_id=f"f{place:04}",
                )
        self.facts["prediction"] = str(answer.predictions[0]["id"])
        PredictionDrain(
            self.premises.spool_folder, self.premises.keys, self.premises.lake
        ).run_once()

    def _report(self) -> None:
        with self.opened() as platform:
            platform.monitors.drift("late")
            self.facts["report"] = platform.monitors.reports("late")[0].id
            for which in ("older", "newer"):
                self.facts[which] = str(platform.audit.checkpoint().size)

    def close(self) -> None:
        """Close the HTTP client."""
        if "http" in vars(self):
            self.http.close()


def _json(action: Action, result: Any) -> Any:
    return action.result.dump_python(result, mode="json", context=_REVEALED)


def door_of(world: World, caller: Caller) -> LocalDoor:
    """A door of the world for any caller."""
    return LocalDoor(world.premises.backend, caller)
