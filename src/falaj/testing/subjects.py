"""What to ask of each action in the small world, so that it answers and does something.

``SUBJECTS`` holds one line for each action: how to make its arguments, each time on a
subject of its own, and which facts of its answer are of one call and no other. An action
without a line is asked with no arguments and must answer the same each time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from falaj.testing.artifactsubjects import of_artifacts
from falaj.testing.operationsubjects import of_operations
from falaj.testing.registrysubjects import of_registry
from falaj.testing.retrainingsubjects import of_retraining
from falaj.testing.rolloutsubjects import of_rollouts
from falaj.testing.studied import studied
from falaj.testing.trackingsubjects import of_tracking
from falaj.testing.world import BEGIN, OWNER, definitions, door_of, training_spec
from falaj.testing.worldparts import (
    backfill,
    delivery,
    judged_model,
    pipeline_run,
    receiver,
    scheduled,
    webhook,
)

if TYPE_CHECKING:
    from falaj.testing.world import World

Arguments = Mapping[str, Any]
_ID = re.compile(r"\b[a-z]{2,12}_[0-9a-f]{32}\b")
_INSTANT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
_SECRET = re.compile(r"^(falaj_(link|sk)_|whsec_)[A-Za-z0-9_+/=-]{20,}$")
_NEW = re.compile(r"\b(person|program|group|model|alert|entity|by-hand)[-_][0-9a-f]+\b")


@dataclass(frozen=True)
class Subject:
    """How one action is asked."""

    arguments: Callable[[World], Arguments] = lambda _world: {}
    """Makes arguments, and what they are about, anew with each call."""
    passing: frozenset[str] = frozenset()
    """Names of facts in the answer that are different with each call."""
    outside: str = ""
    """Why its work is not all undone with its transaction; empty if it is."""

    def same(self, answer: Any) -> Any:
        """The answer without what belongs to one call: ids, instants, secrets, new names."""
        if isinstance(answer, Mapping):
            return {
                name: "(passing)" if name in self.passing else self.same(value)
                for name, value in answer.items()
            }
        if isinstance(answer, list):
            return [self.same(item) for item in answer]
        if isinstance(answer, str):
            for pattern, instead in _OF_ONE_CALL:
                answer = pattern.sub(instead, answer)
        if isinstance(answer, float) and not math.isfinite(answer):
            # As JSON says it; a NaN equals nothing, not even itself.
            return "NaN" if math.isnan(answer) else "Infinity" if answer > 0 else "-Infinity"
        return answer


_OF_ONE_CALL = (
    (_ID, "(id)"),
    (_INSTANT, "(instant)"),
    (_SECRET, "(secret)"),
    (_NEW, "(new)"),
)


def _always(**arguments: Any) -> Callable[[World], Arguments]:
    return lambda _world: arguments


def _fact(argument: str, fact: str = "", **more: Any) -> Callable[[World], Arguments]:
    """The argument is a thing that the world holds already."""
    return lambda world: {argument: world.facts[fact or argument], **more}


def _loss_window(world: World) -> Arguments:
    """Labelled predictions, of which the last day's losses are learned."""
    world.serving()
    now = world.premises.clock.now().replace(microsecond=0)
    window = {"since": now - timedelta(days=1), "until": now + timedelta(days=1)}
    both = {**window, **{f"reference_{name}": at for name, at in window.items()}}
    told = {name: at.isoformat() for name, at in both.items()}
    return {"endpoint": "late", "label_table": "flights", "label": "late", "key": "flight", **told}


def _new(argument: str, make: Callable[[World], str], **more: Any) -> Callable[[World], Arguments]:
    """The argument is a thing that is made for this call."""
    return lambda world: {argument: make(world), **more}


def _policy(world: World) -> dict[str, Any]:
    name = world.new("model").replace("_", "-")
    forbid = f'@id("{name}") forbid (principal == User::"user:x", action, resource);'
    return {"kind": "policy", "name": name, "text": forbid}


def _activation(world: World) -> Arguments:
    return {"name": "late", "release": world.release(), "wait_seconds": 1.0}


def _rollback(world: World) -> Arguments:
    world.serving()
    return {"name": "late", "wait_seconds": 1.0}


def _registration(world: World) -> Arguments:
    return {"name": world.new("model"), "run": world.facts["run"]}


def _bringing(world: World) -> Arguments:
    from falaj.testing.smallmodels import lightgbm_booster

    name = f"{world.new('model')}.txt"
    folder = world.premises.settings.data_folders[0]
    (folder / name).write_text(lightgbm_booster().model_to_string())
    return {"name": "late", "file": name, "model_format": "lightgbm",
            "inputs": [{"name": one} for one in ("signal", "mean_2d", "count_2d")]}  # fmt: skip


def _promotion(world: World) -> Arguments:
    return {"name": world.copied_model(), "version": 1, "to": "archived", "reason": "It is old."}


def _revocation(world: World) -> Arguments:
    name = world.person()
    world.session_of(name)
    return {"name": name}


def _found(what: str, attribute: str) -> Callable[[World], Arguments]:
    return lambda world: {"filter": f'{attribute} eq "{world.provisioned(what)[1]}"'}


def _provisioned(what: str, **more: Any) -> Callable[[World], Arguments]:
    return lambda world: {what: world.provisioned(what)[0], **more}


def _handed_over(world: World) -> Arguments:
    name = world.person()
    return {"name": name, "provisioner": world.provisioner(), "user_name": name}


def _removal(world: World) -> Arguments:
    name = world.person()
    return {"name": name, "factor": world.passkeys_of(name)[0]}


def _keys_of_tokens(world: World) -> Arguments:
    """The first token that is issued makes a key: it must be there before keys are listed."""
    world.token(world.caller())
    return {}


def _proof(world: World) -> Arguments:
    return {"old": int(world.facts["older"]), "new": int(world.facts["newer"])}


def _push(world: World) -> Arguments:
    at = (BEGIN + timedelta(days=90)).isoformat()
    row = {"flight": world.new("f"), "carrier": "AA", "signal": 0.5, "at": at, "delay": 3.0,
           "late": 0}  # fmt: skip
    return {"table": "flights", "rows": [row], "key": world.new("push")}


def _upload(_world: World) -> Arguments:
    import pyarrow as pa

    rows = pa.table({"carrier": ["AA", "UA"], "signal": [0.25, 0.5]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return {"rows": sink.getvalue().to_pybytes()}


def _person(world: World, **more: Any) -> dict[str, Any]:
    """Somebody with a key."""
    import secrets

    from falaj.trust.subjects import Subject as Person

    name = f"person-{secrets.token_hex(4)}"
    world.premises.subject_keys.of([Person("person", name)], make=True)
    return {"subject": name, **more}


def _erasure_proof(world: World) -> Arguments:
    from falaj.lake.erasure_service import PrivacyService

    erase = next(one for one in PrivacyService.actions() if one.verb == "erase")
    erased = door_of(world, world.caller()).call(erase, _person(world, reason="request 2"))
    receipt = erased.receipt
    return {"certificate": erased.certificate.id, "receipt": receipt, "subject": "somebody"}


def _people(world: World) -> Arguments:
    """A table with a personal rule."""
    import secrets

    import pyarrow as pa

    from falaj.lake.personal import PersonalGroup, PersonalRule, record_rule
    from falaj.lake.service import record_table

    table = f"people_{secrets.token_hex(4)}"
    group = PersonalGroup(subject="who")
    record_rule(world.premises.lake, PersonalRule(table=table, groups=(group,)))
    world.premises.lake.append(table, pa.table({"who": ["a", "b"]}))
    with world.premises.calls.opened("test.table", f"user:{OWNER}") as call:
        record_table(call, world.premises.catalog, table)
    return {"table": table}


def _retirement(world: World) -> Arguments:
    return {"name": "recent", "version": world.earlier_view()}


def _entity(world: World) -> Arguments:
    name = world.new("entity").replace("-", "_")
    return {"documents": [{"kind": "entity", "name": name, "keys": {"code": "string"}}]}


def _scheduled(world: World) -> Arguments:
    """A pipeline is scheduled; it is asked for no argument."""
    scheduled(world)
    return {}


def _request(world: World) -> Arguments:
    from falaj.interfaces.certificatesource import new_request

    return {"account": world.service_account(), "request": new_request("ci")[1]}


def _kept(*, after: int) -> Callable[[World], Arguments]:
    """Only records that stand already: the log grows with each call."""
    return lambda world: {"before": int(world.facts["newer"]) + after, "limit": 5}


VERSION = {"name": "late", "version": 1}
_ROW = {"signal": 0.25, "carrier": "UA"}
_LATE = {"name": "late"}
_JOB = frozenset({"id", "submitted_at"})
_SIGNED = frozenset({"size", "root", "signature", "previous", "n_records", "at", "statement"})

_CERTIFICATE = frozenset({"serial", "thumbprint", "certificate"})

SUBJECTS: Mapping[str, Subject] = {
    "sources.load": Subject(_always(source="flights")),
    "sources.loads": Subject(_always(source="flights")),
    "sources.check": Subject(_always(source="flights"), frozenset({"n_rows"})),
    "sources.results": Subject(_always(source="flights", limit=1)),
    "contracts.check": Subject(_always(contract="flights"), _JOB),
    "contracts.checks": Subject(_always(contract="flights", limit=5)),
    "contracts.history": Subject(_always(contract="flights", limit=5)),
    "tables.get": Subject(_always(table="flights")),
    "tables.snapshots": Subject(_always(table="flights")),
    "tables.read": Subject(
        _always(table="flights", limit=3, columns=["flight", "at"], order_by=["flight"])
    ),
    "tables.query": Subject(
        _always(sql="SELECT carrier, count(*) AS n FROM flights WHERE flight < 'f0003'"
                " GROUP BY carrier ORDER BY carrier"),
        frozenset({"snapshot"}),
    ),
    "tables.classify": Subject(
        _always(table="flights", columns={"flight": "internal"}),
        frozenset({"snapshot", "n_rows", "n_files", "n_bytes"}),
    ),
    "tables.upload": Subject(
        _upload, frozenset({"snapshot", "repeated"}),
        outside="rows are in the lake, in a table named by their content"
    ),
    "definitions.plan": Subject(
        lambda _world: {"documents": [one.document() for one in definitions()]}
    ),
    "definitions.apply": Subject(_entity, frozenset({"digest", "items"})),
    "definitions.get": Subject(_always(kind="endpoint", name="late")),
    "definitions.history": Subject(_always(kind="endpoint", name="late")),
    "features.list": Subject(_always(kind="feature_view")),
    "features.read": Subject(
        _always(name="delays", rows=[_ROW], at=(BEGIN + timedelta(days=80)).isoformat())
    ),
    "features.push": Subject(
        _push, frozenset({"snapshot", "key"}),
        outside="rows are in the event log and in the online store, once for each key",
    ),
    "features.statistics": Subject(
        _new("name", lambda world: world.with_statistics(), limit=2)
    ),
    "features.materialize": Subject(_always(name="recent")),
    "features.retire": Subject(_retirement, frozenset({"arguments"})),
    "features.parity": Subject(
        _always(name="delays", sample=5, at=(BEGIN + timedelta(days=200)).isoformat()),
        frozenset({"seconds", "offline_seconds", "online_seconds", "latest", "snapshot"}),
        outside="what was pushed is brought into the lake before it is compared",
    ),
    "features.parity_history": Subject(
        _new("name", lambda world: world.checked_parity(), limit=1),
    ),
    "features.streams": Subject(_always(), frozenset({"lag_seconds"})),
    "training.prepare": Subject(lambda _world: {"spec": training_spec()}),
    "training.set": Subject(_fact("training_set")),
    "training.rows": Subject(_fact("training_set", limit=3)),
    "training.recreate": Subject(_fact("training_set")),
    "training.train": Subject(
        lambda _world: {"request": {"model": "late", "spec": training_spec()}}
    ),
    **{name: Subject(asked) for name, asked in of_tracking().items()},
    **{name: Subject(asked) for name, asked in of_operations().items()},
    **{name: Subject(*asked) for name, asked in of_artifacts().items()},
    "training.tune": Subject(
        lambda world: {"request": {
            "study": world.new("entity"), "n_trials": 1,
            "training": {"model": "late", "spec": training_spec()},
            "space": {"num_leaves": {"kind": "int", "low": 4, "high": 8}},
        }}
    ),
    **{name: Subject(*asked) for name, asked in of_registry().items()},
    "studies.begin": Subject(
        lambda world: {"spec": {"name": world.new("entity"), "n_trials": 2, "seed": 1},
                       "tuner": "a tuner"}
    ),
    "studies.take": Subject(
        _new("run", studied, spec={"name": "any", "n_trials": 3}, tuner="a tuner"),
        frozenset({"name", "experiment"}),
    ),
    "studies.keep": Subject(
        _new("run", studied, tuner="a tuner",
             trials=[{"number": 5, "state": "complete", "values": [0.5], "params": {"x": 2}}])
    ),
    "studies.leave": Subject(
        _new("run", studied, tuner="a tuner"), frozenset({"name", "experiment"})
    ),
    "studies.list": Subject(_always(name="no-such-study")),
    "studies.get": Subject(_new("run", studied), frozenset({"name", "experiment"})),
    "studies.trials": Subject(_new("run", studied)),
    "studies.insight": Subject(_new("run", studied), frozenset({"name"})),
    "runs.reproduce": Subject(_fact("run")),
    "costs.report": Subject(_always(by="run")),
    "costs.usage": Subject(_always(model="late", limit=3)),
    "costs.model": Subject(_always(model="late")),
    "costs.advice": Subject(_always(model="late")),
    "costs.set_prices": Subject(
        _always(prices={"currency": "AED", "cpu_hour": "0.25"}),
        frozenset({"version", "valid_from"}),
    ),
    "pipelines.run": Subject(_always(name="counting", parameters={"n": 2})),
    "pipelines.runs": Subject(_always(limit=3), frozenset({"parameters"})),
    "pipelines.get": Subject(_new("run", pipeline_run)),
    "pipelines.read": Subject(_fact("run", "pipeline_run", step="counted")),
    "pipelines.cancel": Subject(_new("run", pipeline_run)),
    "pipelines.retry": Subject(_new("run", lambda world: pipeline_run(world, cancelled=True))),
    "pipelines.schedule": Subject(_always(name="counting")),
    "pipelines.pause": Subject(_new("name", scheduled)),
    "pipelines.schedules": Subject(_scheduled),
    "pipelines.backfill": Subject(
        _always(name="counting", since=BEGIN.isoformat(),
                until=(BEGIN + timedelta(days=2)).isoformat())
    ),
    "pipelines.backfills": Subject(
        lambda world: {"pipeline": "counting", "limit": 1 if backfill(world) else 2}
    ),
    "pipelines.resume_backfill": Subject(
        _new("backfill", lambda world: backfill(world, cancelled=True))
    ),
    "pipelines.cancel_backfill": Subject(_new("backfill", backfill)),
    "models.register": Subject(_registration),
    "models.bring": Subject(_bringing),
    "models.quantize": Subject(_always(**VERSION)),
    "models.versions": Subject(_always(name="late")),
    "models.get": Subject(_always(**VERSION)),
    "models.gates": Subject(_always(**VERSION)),
    "models.gate_report": Subject(_always(**VERSION)),
    "models.promote": Subject(_promotion),
    "models.card": Subject(_always(**VERSION)),
    "models.export": Subject(_always(**VERSION)),
    "models.bom": Subject(_always(**VERSION)),
    "models.attestation": Subject(_always(**VERSION)),
    "endpoints.status": Subject(_always(**_LATE)),
    "endpoints.openapi": Subject(lambda world: {"name": world.serving() and "late"}),
    "endpoints.traffic": Subject(passing=frozenset({"at"})),
    "endpoints.releases": Subject(_always(**_LATE)),
    "endpoints.history": Subject(_always(**_LATE)),
    "endpoints.deploy": Subject(_always(**_LATE)),
    "endpoints.activate": Subject(_activation),
    "endpoints.rollback": Subject(_rollback),
    "endpoints.retire": Subject(lambda world: {"name": "late", "release": world.release()}),
    "endpoints.deactivate": Subject(lambda world: {"name": world.serving() and "late"}),
    "endpoints.predict": Subject(
        lambda world: {"name": world.serving() and "late", "inputs": [_ROW],
                       "at": (BEGIN + timedelta(days=80)).isoformat()},
        outside="the prediction log is a log of its own",
    ),
    "endpoints.scaling": Subject(lambda world: {"limit": world.scaled()}, frozenset({"machine"})),
    "endpoints.score": Subject(
        lambda world: {"name": world.serving() and "late", "to": "scored_flights",
                       "table": "flights", "at": "at", "keys": ["flight"]}
    ),
    "endpoints.trace": Subject(_fact("prediction")),
    "monitors.drift": Subject(lambda world: {"endpoint": world.serving() and "late"}),
    "monitors.drift_of_tables": Subject(_always(reference="flights", observed="flights")),
    "monitors.performance": Subject(
        _always(endpoint="late", label_table="flights", label="late", key="flight")
    ),
    "monitors.estimate": Subject(lambda world: {"endpoint": world.serving() and "late"}),
    "monitors.losses": Subject(_loss_window),
    "monitors.calibration": Subject(
        _always(endpoint="late", label_table="flights", label="late", key="flight")
    ),
    "monitors.fairness": Subject(_always(endpoint="late", group_by="carrier")),
    "monitors.leakage": Subject(
        lambda world: {"endpoint": world.serving() and "late", "label_table": "flights",
                       "label": "late", "key": "flight"}
    ),
    "monitors.check": Subject(lambda world: {"name": world.serving() and "late-drift"}),
    "planning.size": Subject(_always(effect=0.1, rate=0.2, units_a_day=1000.0)),
    "monitors.reports": Subject(_always(endpoint="late")),
    "monitors.report": Subject(_fact("report")),
    "monitors.checks": Subject(_always(name="late-drift")),
    "monitors.show": Subject(_always(name="late-drift")),
    "monitors.course": Subject(_always(name="late-drift", kind="drift")),
    **{name: Subject(*asked) for name, asked in of_retraining().items()},
    **{name: Subject(*asked) for name, asked in of_rollouts().items()},
    "changes.get": Subject(_fact("id", "change")),
    "changes.approve": Subject(_new("id", lambda world: world.change(), reason="It is good.")),
    "changes.reject": Subject(_new("id", lambda world: world.change(), reason="Not yet.")),
    "changes.withdraw": Subject(_new("id", lambda world: world.change("user:amina"))),
    "alerts.get": Subject(_fact("id", "alert")),
    "alerts.acknowledge": Subject(_new("id", lambda world: world.alert())),
    "alerts.resolve": Subject(_new("id", lambda world: world.alert(), resolution="Mended.")),
    "incidents.get": Subject(_fact("id", "incident")),
    "incidents.note": Subject(_new("id", lambda world: world.incident(), text="Looking at it.")),
    "incidents.resolve": Subject(_new("id", lambda world: world.incident(), resolution="Mended.")),
    "webhooks.add": Subject(
        lambda world: {"name": world.new("program"), "url": receiver(),
                       "topics": ["gates.failed"]}
    ),
    "webhooks.replace_secret": Subject(_new("name", webhook)),
    "webhooks.remove": Subject(_new("name", webhook)),
    "webhooks.test": Subject(_new("name", webhook)),
    "webhooks.deliveries": Subject(_always(limit=3)),
    "webhooks.resend": Subject(_new("delivery", delivery)),
    "assets.search": Subject(_always(text="late", kind="endpoint")),
    "assets.get": Subject(_always(kind="endpoint", key="late")),
    "assets.history": Subject(_always(kind="model_version", key="late/1")),
    "assets.lineage": Subject(_always(kind="model_version", key="late/1")),
    "assets.describe": Subject(
        lambda world: {"kind": "table", "key": "flights", "description": world.new("Flights")},
        frozenset({"description", "version"}),
    ),
    "accounts.get": Subject(_fact("name", "person")),
    "accounts.me": Subject(passing=frozenset({"via"})),
    "accounts.invite": Subject(lambda world: {"name": world.new("person"), "roles": ["viewer"]}),
    "accounts.create_service": Subject(lambda world: {"name": world.new("program")}),
    "accounts.replace_secret": Subject(_new("name", lambda world: world.service_account())),
    "accounts.set_roles": Subject(
        _new("name", lambda world: world.person(), roles=["viewer", "data_scientist"])
    ),
    "accounts.deactivate": Subject(_new("name", lambda world: world.person())),
    "accounts.reset": Subject(_new("name", lambda world: world.person())),
    "accounts.factors": Subject(_fact("name", "person")),
    "accounts.remove_factor": Subject(_removal),
    "accounts.sessions": Subject(_fact("name", "person")),
    "accounts.revoke_sessions": Subject(_revocation),
    "privacy.find": Subject(_person),
    "privacy.erase": Subject(
        lambda world: _person(world, reason="request 1"),
        frozenset({"pseudonym", "sequence", "subject_hash", "receipt"}),
        outside="a key that was destroyed cannot come back",
    ),
    "privacy.prove": Subject(
        _erasure_proof, frozenset({"pseudonym", "sequence", "subject_hash", "certificate"})
    ),
    "privacy.seal": Subject(
        _people, frozenset({"table", "snapshot"}), outside="the rows are in the lake"
    ),
    "certificates.issue": Subject(_request, _CERTIFICATE),
    "certificates.list": Subject(_new("account", lambda world: world.service_account())),
    "certificates.revoke": Subject(_new("account", lambda world: world.service_account())),
    "provisioning.list_users": Subject(_found("user", "userName")),
    "provisioning.get_user": Subject(_provisioned("user")),
    "provisioning.create_user": Subject(
        lambda world: {"user_name": world.new("person"), "personal": [{"displayName": "Omar"}]}
    ),
    "provisioning.put_user": Subject(
        lambda world: {"user": world.provisioned("user")[0], "user_name": world.new("person"),
                       "active": False}
    ),
    "provisioning.patch_user": Subject(
        _provisioned("user", operations=[{"op": "Replace", "path": "active", "value": "False"}])
    ),
    "provisioning.remove_user": Subject(_provisioned("user")),
    "provisioning.list_groups": Subject(_found("group", "displayName")),
    "provisioning.get_group": Subject(_provisioned("group")),
    "provisioning.create_group": Subject(
        lambda world: {"display_name": world.new("group"),
                       "members": [world.provisioned("user")[0]]}
    ),
    "provisioning.put_group": Subject(
        lambda world: {"group": world.provisioned("group")[0], "display_name": world.new("group"),
                       "members": [world.provisioned("user")[0]]}
    ),
    "provisioning.patch_group": Subject(
        _provisioned("group", operations=[{"op": "replace", "value": {"externalId": "g1"}}])
    ),
    "provisioning.remove_group": Subject(_provisioned("group")),
    "provisioning.hand_over": Subject(_handed_over),
    "provisioning.settle": Subject(passing=frozenset({"n_accounts"})),
    "keys.list": Subject(_keys_of_tokens),
    "keys.rotate": Subject(
        _always(purpose="audit"), frozenset({"id", "version"}),
        outside="a key is in the key service, before anything is sealed with it",
    ),
    "keys.uses": Subject(
        _new("caller", lambda world: world.used_key(), until="2100-01-01T00:00:00Z")
    ),
    "keys.discard": Subject(
        _new("key_id", lambda world: world.old_key()), frozenset({"arguments"})
    ),
    "ci.deploy_key": Subject(
        lambda world: {"name": world.new("program"), "steps": ["plan", "gate"]}
    ),
    "ci.propose": Subject(
        lambda world: {"name": judged_model(world), "reason": "Its gates passed."}
    ),
    "policy.plan": Subject(lambda world: {"documents": [_policy(world)]}, frozenset({"fingerprint",
        "digest", "name"})),
    "policy.propose": Subject(lambda world: {"documents": [_policy(world)], "reason": "Quiet."},
        frozenset({"fingerprint", "digest", "name", "text", "title", "steps"})),
    "policy.compare": Subject(lambda world: {"documents": [_policy(world)]},
        frozenset({"n_questions", "n_differences", "differences"})),
    "policy.why": Subject(
        _always(who=f"user:{OWNER}", action="models.promote", what="model:late")
    ),
    "audit.search": Subject(_kept(after=0)),
    "audit.lines": Subject(_always(after=1, upto=3)),
    "audit.get": Subject(_always(seq=3)),
    "audit.proof": Subject(_always(seq=3), _SIGNED | {"path"}),
    "audit.consistency": Subject(_proof),
    "audit.verify": Subject(passing=_SIGNED | {"seconds", "signed", "n_checkpoints"}),
    "audit.checkpoint": Subject(passing=_SIGNED),
    "jobs.list": Subject(_always(limit=3)),
    "jobs.get": Subject(_fact("job_id", "job")),
    "jobs.queue": Subject(passing=frozenset({"used_core_hours"})),
    "jobs.reclaim": Subject(
        _new("job_id", lambda world: world.spot_job()), frozenset({"kind"}) | _JOB
    ),
    "jobs.manifest": Subject(
        _new("job_id", lambda world: world.sized_job(), image="r.example/f@sha256:" + "0" * 64),
        frozenset({"job", "manifest"}),
    ),
    "jobs.cancel": Subject(_new("job_id", lambda world: world.waiting_job())),
}  # fmt: skip
"""What to ask, by the action's name."""


def subject_of(action: str) -> Subject:
    """How an action is asked."""
    return SUBJECTS.get(action, Subject())
