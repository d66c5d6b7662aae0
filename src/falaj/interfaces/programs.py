"""All that programs of others meet at the control plane: SCIM, CI tokens, MLflow's client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.interfaces.exchange import add_exchange
from falaj.interfaces.hiding import Hiding
from falaj.interfaces.hosts import Addresses
from falaj.interfaces.mlflow import (
    artifacts,
    loggedmodels,
    registry,
    registryversions,
    server,
    tracking,
)
from falaj.interfaces.mlflow.addresses import AddressRoutes
from falaj.interfaces.mlflow.artifacts import ArtifactRoutes
from falaj.interfaces.mlflow.basicauth import ServiceTokens
from falaj.interfaces.mlflow.parts import PartRoutes
from falaj.interfaces.mlflow.routes import Mlflow
from falaj.interfaces.routing import Application
from falaj.interfaces.scim import Scim
from falaj.interfaces.transfers import Transfers
from falaj.trust.provisioners import Provisioners
from falaj.wiring.artifactparts import part_receipts
from falaj.wiring.provisioningparts import ci_exchange

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def add_programs(app: Application, premises: Premises, addresses: Addresses) -> None:
    """Add the routes of identity providers, CI jobs and MLflow's client to the control plane.

    Args:
        addresses: where it is reached, for the addresses in answers.
    """
    Scim(
        premises.backend,
        premises.verifier,
        Provisioners(premises.authentication),
        origin=addresses.origins[0],
        hiding=Hiding.of(premises.settings),
    ).add_to(app)
    add_exchange(app, ci_exchange(premises))
    limits = premises.settings.artifacts
    transfers = Transfers(lambda: premises.streams, limits)
    files = ArtifactRoutes(premises.backend, premises.verifier, transfers)
    parts = PartRoutes(
        files,
        part_receipts(premises),
        lambda: premises.streams,
        most_bytes=limits.max_bytes,
    )
    Mlflow(
        premises.backend,
        premises.verifier,
        hiding=Hiding.of(premises.settings),
        max_body_bytes=premises.settings.http.max_body_bytes,
        routes=(
            *server.ROUTES,
            *tracking.ROUTES,
            *artifacts.ROUTES,
            *loggedmodels.ROUTES,
            *registry.ROUTES,
            *registryversions.ROUTES,
        ),
        raw=(*files.raw(), *parts.raw(), *AddressRoutes(files).raw()),
        exchange=ServiceTokens(
            lambda given, address, shown: premises.authentication.service_login(
                given, address=address, presented=shown
            ),
            premises.verifier,
            premises.clock,
        ).exchange,
    ).add_to(app)
