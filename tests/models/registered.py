"""A registry over one database, without a lake: for what is said of models and versions."""

from __future__ import annotations

from contextlib import contextmanager

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef
from falaj.models.model import ModelPolicy
from falaj.models.promotion import CHANGE_KIND, Promotions
from falaj.models.registered import RegistryParts
from falaj.models.registry import Registry
from falaj.operations.changes import Changes
from falaj.serving.heldversions import HeldVersions
from falaj.testing.calls import opened_call


class NoBundles:
    """Where there are none."""


class Registered:
    """The parts of the registry, with versions that MLflow's clients would register."""

    def __init__(self, database):
        self.database = database
        self.catalog = Catalog()
        self.hidden = set()
        self.definitions = Definitions(self.catalog, {"model": ModelPolicy}, {})
        self.registry = Registry(NoBundles(), self.catalog, self.definitions)
        handlers = {}
        self.changes = Changes(self.catalog, handlers)
        self.promotions = Promotions(self.registry, self.changes)
        self.parts = RegistryParts.of(
            self.registry, self.promotions, self.changes, self.catalog,
            lambda call, resource: str(resource.ref) not in self.hidden, HeldVersions(),
        )  # fmt: skip
        self.changes._handlers |= {
            CHANGE_KIND: self.promotions.apply, "model_alias": self.parts.aliases.apply
        }  # fmt: skip

    @contextmanager
    def call(self, principal="user:amina", **given):
        with opened_call(self.database, principal, **given) as call:
            yield call

    def made(self, name, versions=0, **given):
        """A model with so many versions."""
        with self.call() as call:
            self.catalog.record(call, AssetRef("run", "run_1"))
            self.parts.descriptions.create(call, name, **given)
            for _ in range(versions):
                self.parts.mlflow.register(
                    call, name, source="mlflow-artifacts:/1/run_1/artifacts/model"
                )
        return name
