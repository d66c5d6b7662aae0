"""``falaj ci``: workflows whose commands exist, plans that cannot write markup, notes on GitLab."""

import importlib.util
import re
from pathlib import Path

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from falaj.catalog.planning import FieldChange, Plan, PlannedDefinition, Step
from falaj.interfaces.ci.plans import comment_on_gitlab, markdown
from falaj.interfaces.ci.templates import WORKFLOWS, Places
from falaj.interfaces.cli import app
from falaj.kernel.errors import Conflict, FalajError, InvalidInput, Unavailable

COMMANDS = Path(__file__).parents[1] / "docs" / "test_named_commands.py"
specification = importlib.util.spec_from_file_location("named_commands", COMMANDS)
named = importlib.util.module_from_spec(specification)
specification.loader.exec_module(named)
PLACES = Places("https://falaj.corp.ae", "late", "late-endpoint", "definitions", "ci")


def commands(text):
    """Each falaj command of a workflow, without comments."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*(#|//)", line)]
    folded = re.sub(r"-ec\n\s*", "-ec ", "\n".join(lines))
    found = re.findall(r"(?<![\w./`-])falaj ((?!\.)[^\n;'\"]+)", folded)
    parts = [part.removeprefix("falaj ").strip() for one in found for part in one.split(" -- ")]
    return [part for part in parts if not part.startswith("sh ") and part != "sh -ec"]


@pytest.mark.parametrize("system", list(WORKFLOWS))
def test_every_command_of_a_workflow_is_one_with_these_options(system):
    found = commands(WORKFLOWS[system].text(PLACES))
    assert {one.split()[0] for one in found} >= {"ci", "apply", "endpoints"}
    assert {one: named.wrong(one) for one in found if named.wrong(one)} == {}


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_a_workflow_is_yaml_and_every_place_is_filled(system):
    text = WORKFLOWS[system].text(PLACES)
    found = yaml.safe_load(text)
    assert not re.search(r"<[a-z]+>", text)
    if system == "github":
        assert found["permissions"] == {"contents": "read", "id-token": "write"}
        assert set(found["jobs"]) == {"check", "propose", "deploy"}
        assert all("uses" in one or "run" in one for job in found["jobs"].values()
                   for one in job["steps"])  # fmt: skip
    else:
        assert found["default"]["id_tokens"]["FALAJ_ID_TOKEN"]["aud"] == PLACES.address
        assert all(found[job]["stage"] == job for job in found["stages"])


@pytest.mark.parametrize("model", ["late; rm -rf /", "$(id)", "a\nb", "`id`", "a'b", ""])
def test_a_name_that_a_shell_would_read_stands_in_no_workflow(model):
    with pytest.raises(InvalidInput):
        WORKFLOWS["gitlab"].text(Places("https://x", model, "late"))


def invoke(folder, *words):
    return CliRunner().invoke(app, ["--folder", str(folder), "ci", *words], catch_exceptions=True)


def test_init_writes_the_file_where_the_system_looks_and_replaces_none(tmp_path):
    words = ["init", "github", "--address", "https://falaj.corp.ae", "--model", "late",
             "--endpoint", "late"]  # fmt: skip
    done = invoke(tmp_path, *words)
    assert done.exit_code == 0, done.output
    file = tmp_path / ".github" / "workflows" / "falaj.yml"
    assert "FALAJ_URL: https://falaj.corp.ae" in file.read_text()
    assert isinstance(invoke(tmp_path, *words).exception, Conflict)
    assert invoke(tmp_path, *words, "--force").exit_code == 0
    assert isinstance(invoke(tmp_path, "init", "travis", *words[2:]).exception, InvalidInput)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("from falaj.declare import Entity\nshop = Entity(name='shop', keys={'s': 'string'})", ""),
        ("x = 1 / 0", "cannot be run"),
        ("from falaj.declare import Entity\nshop = Entity(name='shop', keys={'shop': 'string'},"
         " description='AKIAIOSFODNN7EXAMPLE')", "secret"),
    ],
)  # fmt: skip
def test_lint_needs_no_platform_and_finds_what_is_wrong(tmp_path, text, wrong):
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "shop.py").write_text(text)
    done = invoke(tmp_path, "lint", str(tmp_path / "definitions"))
    if not wrong:
        assert "1 definitions are well formed" in done.output
    else:
        assert isinstance(done.exception, FalajError)
        assert wrong in str(done.exception)


def plan(**change):
    item = PlannedDefinition(
        kind="entity", name="shop", step=Step.UPDATE, version=2, fingerprint="f",
        changes=[FieldChange(**{"field": "description", "before": "a", "after": "b", **change})],
    )  # fmt: skip
    return Plan(items=[item], digest="d" * 64)


def test_a_plan_is_a_table_that_says_what_is_incompatible():
    text = markdown(plan(compatible=False, why="it meant something else"))
    assert "| change | entity `shop` | 2 | description: a → b **incompatible**: it meant" in text
    assert "Nothing to change" in markdown(Plan(items=[], digest="d" * 64))


@pytest.mark.parametrize(
    "evil", ["</td><img src=x>", "[x](https://evil)", "@everyone", "| a |", "`"]
)
def test_what_a_definition_says_writes_no_markup_of_its_own(evil):
    text = markdown(plan(after=evil))
    row = next(line for line in text.splitlines() if line.startswith("| change"))
    for letter in "<[@`":
        assert letter not in row.split("→")[1]
    assert row.count("|") == 5


def test_a_note_is_written_on_the_merge_request_of_the_job():
    asked = []

    def gitlab(request):
        asked.append(request)
        return httpx.Response(201, json={"id": 7})

    around = {"CI_API_V4_URL": "https://gitlab.corp.ae/api/v4", "CI_PROJECT_ID": "12",
              "CI_MERGE_REQUEST_IID": "3", "GITLAB_COMMENTER": "glpat"}  # fmt: skip
    with httpx.Client(transport=httpx.MockTransport(gitlab)) as client:
        assert comment_on_gitlab("plan", around, client) == "7"
        assert asked[0].url.path == "/api/v4/projects/12/merge_requests/3/notes"
        assert asked[0].headers["private-token"] == "glpat"
        with pytest.raises(InvalidInput, match="GITLAB_COMMENTER"):
            comment_on_gitlab("plan", {**around, "GITLAB_COMMENTER": ""}, client)
        with pytest.raises(InvalidInput, match="https"):
            comment_on_gitlab("plan", {**around, "CI_API_V4_URL": "http://x"}, client)
    refusing = httpx.MockTransport(lambda _request: httpx.Response(403))
    with httpx.Client(transport=refusing) as client, pytest.raises(Unavailable, match="403"):
        comment_on_gitlab("plan", around, client)
