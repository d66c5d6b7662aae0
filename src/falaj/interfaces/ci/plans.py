"""A plan as Markdown, for a comment on a merge request; and the comment on GitLab."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

from falaj.catalog.planning import Step
from falaj.kernel.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    import httpx

    from falaj.catalog.planning import Plan

_LONGEST = 120
_WORDS = {Step.CREATE: "create", Step.UPDATE: "change", Step.KEPT: "kept, not declared"}
_NEEDED = ("CI_API_V4_URL", "CI_PROJECT_ID", "CI_MERGE_REQUEST_IID", "GITLAB_COMMENTER")


def markdown(plan: Plan) -> str:
    """What applying would change, as a table of GitHub's and GitLab's Markdown."""
    shown = [item for item in plan.items if item.step is not Step.UNCHANGED]
    lines = ["### `falaj plan`", ""]
    if not any(plan.effective()):
        lines += ["Nothing to change.", ""]
    if shown:
        lines += ["| | definition | version | what |", "|---|---|--:|---|"]
        for item in shown:
            changed = "<br>".join(
                f"{_cell(one.field)}: {_cell(one.before)} → {_cell(one.after)}"
                + (f" **incompatible**: {_cell(one.why)}" if one.compatible is False else "")
                for one in item.changes
            )
            obstacles = "<br>".join(f"⛔ {_cell(told)}" for told in item.obstacles)
            what = "<br>".join(part for part in (changed, obstacles) if part)
            lines.append(
                f"| {_WORDS[item.step]} | {item.kind} `{item.name}` | {item.version} | {what} |"
            )
        lines.append("")
    lines.append(f"Plan `{plan.digest[:16]}`. Nothing was changed: `falaj apply` does it.")
    return "\n".join(lines) + "\n"


def comment_on_gitlab(text: str, surroundings: Mapping[str, str], client: httpx.Client) -> str:
    """Write a note on the merge request of this GitLab job; returns its id.

    Args:
        surroundings: the job's variables; ``GITLAB_COMMENTER`` is a token that may write notes.
        client: asks GitLab.

    Raises:
        InvalidInput: a variable is missing, or GitLab's address is not https.
        Unavailable: GitLab does not take the note.
    """
    import httpx

    missing = [name for name in _NEEDED if not surroundings.get(name)]
    if missing:
        raise InvalidInput(
            f"The variable {missing[0]} is missing.",
            hint="Run this in a merge request's pipeline, with a project access token in"
            " GITLAB_COMMENTER.",
        )
    address, project, number, token = (surroundings[name] for name in _NEEDED)
    if not address.startswith("https://"):
        raise InvalidInput("The variable CI_API_V4_URL does not begin with https://.")
    url = f"{address}/projects/{quote(project, safe='')}/merge_requests/{quote(number)}/notes"
    try:
        answer = client.post(url, headers={"PRIVATE-TOKEN": token}, json={"body": text})
    except httpx.HTTPError as error:
        raise Unavailable(f"GitLab does not answer: {type(error).__name__}.") from None
    if answer.status_code != httpx.codes.CREATED:
        raise Unavailable(
            f"GitLab does not take the note: it answered {answer.status_code}.",
            hint="GITLAB_COMMENTER needs the scope `api` and the role Reporter.",
        )
    return str(answer.json().get("id"))


def surroundings() -> Mapping[str, str]:
    """The variables of this process."""
    return os.environ


def _cell(value: object) -> str:
    """A value as one cell: no markup of its own, one line, cut to size."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    for letter in "\\`*_[]<>|@#!":
        text = text.replace(letter, f"&#{ord(letter)};")
    return text
