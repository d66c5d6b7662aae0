"""Whom predictions are about: which request field of a release names the person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from falaj.features.plan import ServicePlan
from falaj.kernel.errors import InvalidInput
from falaj.serving.model import FieldType, RequestField

if TYPE_CHECKING:
    from falaj.serving.model import Endpoint

_NAMES = (FieldType.STRING, FieldType.INT)


def subject_of(
    endpoint: Endpoint, features: Mapping[str, Any] | None, fields: Sequence[RequestField]
) -> tuple[str | None, str]:
    """The request field that names the person a prediction is about, None if it is about
    nobody, and the kind of persons.

    It is what the endpoint declares, or else the key that the views of its features name.

    Args:
        endpoint: as it is declared.
        features: the document of its feature service.
        fields: of its requests.

    Raises:
        InvalidInput: the views name several persons and the endpoint none of them, or it names
            no request field of text or whole numbers.
    """
    found = _of_views(features)
    if endpoint.subject is not None:
        found = [(endpoint.subject, endpoint.subject_kind)]
    if len(found) > 1:
        raise InvalidInput(
            f"The features of {endpoint.name!r} are about several persons: "
            f"{', '.join(f'the {kind} in {field!r}' for field, kind in found)}.",
            hint="Say with `subject` and `subject_kind` under whose key predictions are kept.",
        )
    if not found:
        return None, endpoint.subject_kind
    field, kind = found[0]
    types = {one.name: one.type for one in fields}
    if types.get(field) not in _NAMES:
        raise InvalidInput(
            f"The subject {field!r} of {endpoint.name!r} is no request field of text or whole "
            "numbers.",
            hint=f"Its request fields are {', '.join(types) or 'none'}.",
        )
    return field, kind


def _of_views(features: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(request field, kind) of each person that the views of a service name."""
    if features is None:
        return []
    found = []
    for use in ServicePlan.from_documents(features["definitions"]).views:
        view = use.plan.view
        if view.subject is not None:
            column = use.key_columns[list(use.plan.keys).index(view.subject)]
            found.append((column, view.subject_kind))
    return list(dict.fromkeys(found))
