"""The parts of tuning, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.training.tuning.service import StudyService
    from falaj.wiring.assembly import Premises


def study_service(made: Premises) -> StudyService:
    """The actions of studies."""
    from falaj.training.tuning.service import StudyService
    from falaj.training.tuning.studies import Studies

    return StudyService(Studies(made.runs), made.catalog, made.visible)
