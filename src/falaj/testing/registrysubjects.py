"""What to ask of the actions on models, versions, tags and aliases in the small world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.testing.world import World

Asked = tuple[Callable[["World"], Mapping[str, Any]], frozenset[str]]


def of_registry() -> dict[str, Asked]:
    """By action: its arguments, and the passing facts of its answer."""
    late: dict[str, dict[str, Any]] = {
        "models.show": {"name": "late"},
        "models.search": {"filter": "name = 'late'", "order_by": ["name ASC"], "limit": 1},
        "models.search_versions": {"filter": "name = 'late' AND version_number = 1"},
        "models.history": {"name": "late", "at": "2100-01-01"},
    }
    of_copy: dict[str, dict[str, Any]] = {
        "models.describe": {"description": "It."},
        "models.describe_version": {"version": 1, "description": "It."},
        "models.tag": {"tags": {"a": "b"}},
        "models.untag": {"keys": ["a"]},
        "models.tag_version": {"version": 1, "tags": {"a": "b"}},
        "models.untag_version": {"version": 1, "keys": ["a"]},
        "models.set_alias": {"alias": "blue", "version": 1},
        "models.delete_version": {"version": 1, "reason": "It is a copy."},
        "models.delete": {"reason": "It is a copy."},
        "models.quarantine": {"version": 1, "reason": "It harmed."},
    }
    more: dict[str, Callable[[World], Mapping[str, Any]]] = {
        **{name: _always(given) for name, given in late.items()},
        **{name: _of_copy(given) for name, given in of_copy.items()},
        "models.create": lambda world: {
            "name": world.new("model"), "description": "It is new.", "tags": {"team": "risk"},
        },
        "models.register_mlflow": lambda world: {
            "name": world.copied_model(), "source": source_of(world), "run": world.facts["run"],
        },
        "models.remove_alias": lambda world: {"name": aliased_model(world), "alias": "blue"},
        "models.resolve": lambda world: {"name": aliased_model(world), "alias": "blue"},
        "models.release": lambda world: {
            "name": quarantined_model(world), "version": 1, "reason": "The labels were wrong.",
        },
    }  # fmt: skip
    return {
        **{name: (asked, frozenset[str]()) for name, asked in more.items()},
        "models.propose_alias": (
            lambda world: {"name": "late", "alias": world.new("alias"), "version": 1,
                           "reason": "It is the one."},
            frozenset({"title", "alias"}),
        ),
        "models.adopt": (
            lambda world: {"name": "late", "version": registered_folder(world)},
            frozenset({"arguments", "resource", "version"}),
        ),
        "models.revoke": (
            lambda world: {"name": lone_model(world), "version": 1, "reason": "It is poisoned."},
            frozenset({"value"}),
        ),
        "models.revoke_signer": (
            lambda world: {"key": old_signer(world), "reason": "It was stolen."},
            frozenset({"value"}),
        ),
    }  # fmt: skip


def _always(given: Mapping[str, Any]) -> Callable[[World], Mapping[str, Any]]:
    return lambda _world: given


def _of_copy(given: Mapping[str, Any]) -> Callable[[World], Mapping[str, Any]]:
    return lambda world: {"name": world.copied_model(), **given}


def source_of(world: World) -> str:
    """Where the files of a model would lie that the world's run logged."""
    return f"mlflow-artifacts:/1/{world.facts['run']}/artifacts/model"


def aliased_model(world: World) -> str:
    """The name of a new model whose only version has the alias ``blue``."""
    from falaj.wiring.registryparts import registry_parts

    name = world.copied_model()
    with world.call() as call:
        registry_parts(world.premises).aliases.set(call, name, "blue", 1)
    return name


def quarantined_model(world: World) -> str:
    """The name of a new model whose only version is in quarantine."""
    from falaj.models.quarantine import quarantine

    name = world.copied_model()
    with world.call() as call:
        quarantine(call, name, 1, "It harmed.")
    return name


def registered_folder(world: World) -> int:
    """The number of a new version of ``late`` that an MLflow client might have registered."""
    from falaj.testing.world import door_of

    action = world.premises.backend.services.actions["models.register_mlflow"]
    given = {"name": "late", "source": source_of(world)}
    return int(door_of(world, world.caller()).call(action, given).version)


def lone_model(world: World) -> str:
    """The name of a new model with one version, whose bundle no other version has."""
    from falaj.models.bundles import ADDED

    made, name = world.premises, world.new("model")
    with world.call() as call:
        bundle = made.bundles.open_bundle(made.registry.version(call.connection, "late", 1).bundle)
        manifest = bundle.manifest.model_copy(update={"facts": {"made_for": name}})
        files = {n: d for n, d in bundle.files.items() if n not in ADDED}
        attested = bundle.attestation.predicate if bundle.attestation else None
        digest = made.bundles.keep(manifest, files, attested)
        made.registry.register(call, name, run=world.facts["run"], bundle=digest)
    return name


def old_signer(world: World) -> str:
    """The id of a key for bundles that signed none, and signs none any more."""
    key = world.premises.keys.rotate("models.p256").id
    world.premises.keys.rotate("models.p256")
    return key
