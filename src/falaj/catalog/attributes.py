"""The attributes of assets as policies see them, read from their rows at little cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from falaj.kernel.call import AssetRef
from falaj.kernel.ports import Resource
from falaj.kernel.statements import Statement

LOAD_COLUMNS = "owner, classification, region, attributes"
"""The columns of an asset's row that ``resource_of`` takes, in its order."""
LOAD = Statement(f"SELECT {LOAD_COLUMNS} FROM catalog_assets WHERE kind = ? AND key = ?")


def resource_of(
    ref: AssetRef,
    owner: str | None,
    classification: str | None,
    region: str | None,
    attributes: str | Mapping[str, Any],
) -> Resource:
    """An asset as the policy sees it, from the columns ``LOAD_COLUMNS`` of its row."""
    told = json.loads(attributes) if isinstance(attributes, str) else attributes
    known = {
        "owner": owner,
        "classification": classification,
        "region": region,
        "stage": told.get("stage"),
        "workspace": told.get("workspace"),
    }
    return Resource(ref, {name: str(value) for name, value in known.items() if value is not None})
