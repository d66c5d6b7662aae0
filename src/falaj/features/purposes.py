"""Purposes: what the features of a service may be used for.

A view names its purposes; one that names none may be used for any. A service may be used
for what all of its views permit: the intersection over those that name some. The purpose
of a reading is what its caller states (``kernel.call.Caller.purpose``), and it stands in
the record of the reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from falaj.kernel.errors import Forbidden

if TYPE_CHECKING:
    from falaj.features.plan import ServicePlan


class PurposeRefused(Forbidden):
    """Features are asked for a purpose that one of their views does not permit, or for none."""

    code = "purpose-refused"


def purposes_of(plan: ServicePlan) -> tuple[str, ...] | None:
    """What the features of a service may be used for, sorted; None if for anything.

    An empty tuple means: its views have no purpose in common, and nobody may read it.
    """
    named = [set(use.plan.view.purposes) for use in plan.views if use.plan.view.purposes]
    return tuple(sorted(set.intersection(*named))) if named else None


def permitted(plan: ServicePlan, purpose: str | None) -> None:
    """Let a reading of a service's features pass, or refuse it.

    Args:
        plan: the compiled service.
        purpose: what the caller wants them for, or None if nothing was said.

    Raises:
        PurposeRefused: a view of the service names purposes, and this is not one of them.
    """
    refuse_unless(purposes_of(plan), purpose, plan.service.name)


def refuse_unless(allowed: Sequence[str] | None, purpose: str | None, service: str) -> None:
    """Raise PurposeRefused unless a purpose is among those that are allowed (None: any)."""
    if allowed is None or purpose in allowed:
        return
    asked = f"for {purpose!r}" if purpose else "without a purpose"
    if not allowed:
        raise PurposeRefused(
            f"The views of the feature service {service!r} have no purpose in common.",
            hint="Take features of different purposes into services of their own.",
            permitted=[],
        )
    raise PurposeRefused(
        f"The features of {service!r} are asked {asked}; their views permit {', '.join(allowed)}.",
        hint="State a permitted purpose: purpose=… in Python, --purpose on the command line,"
        " the header Falaj-Purpose over HTTP; or ask the owner of the view.",
        permitted=list(allowed),
    )


__all__ = ["PurposeRefused", "permitted", "purposes_of", "refuse_unless"]
