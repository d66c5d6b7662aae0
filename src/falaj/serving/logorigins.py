"""What the columns of a prediction log come from: as secret as the features in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.features.exposure import origins_of_service
from falaj.features.plan import ServicePlan

if TYPE_CHECKING:
    from falaj.serving.model import Release

OF_FEATURES = ("features", "fields", "unit")
"""The columns of the log that hold features, or the keys by which they were found."""


def log_origins(release: Release) -> dict[str, list[str]]:
    """By column of the log the source columns behind the features of a release."""
    documents = (release.features or {}).get("definitions")
    if not documents:
        return {}
    plan = ServicePlan.from_documents(documents)
    behind = {one for made_of in origins_of_service(plan).values() for one in made_of}
    return dict.fromkeys(OF_FEATURES, sorted(behind)) if behind else {}
