"""What MLflow's client asks a server about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.routes import Route


def _information(_asked: Asked) -> Mapping[str, Any]:
    return {"store_type": "SqlStore", "workspaces_enabled": False}


ROUTES = (Route("GET", "mlflow/server-info", _information),)
