"""The pages of the closed loop: monitors, performance, endpoints, sources, and how they link."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Table
from starlette.testclient import TestClient
from tests.interfaces.watched import HOSTILE, IMAGE, ORIGIN, Watched

from falaj.interfaces.cookies import own_page
from falaj.operations import tables
from falaj.testing.browsers import Browser
from falaj.trust.model import Role
from falaj.trust.policy_store import put

PAGES = (
    "/monitors", "/monitors/watch", "/monitors/quiet", "/monitors/watch/performance", "/endpoints",
    "/endpoints/late", "/sources", "/sources/orders", "/contracts/orders-contract",
)  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    made = Watched(tmp_path_factory.mktemp("watched"))
    yield made
    made.premises.close()


@pytest.fixture(scope="module")
def amina(watched: Watched) -> Browser:
    return watched.browser("amina", Role.ML_ENGINEER)


@pytest.fixture(scope="module")
def stranger(watched: Watched) -> Browser:
    """Somebody whom the operator's policy lets see nothing."""
    found = watched.browser("nobody", Role.VIEWER)
    forbidden = '@id("blind") forbid (principal == User::"user:nobody", action, resource);'
    with watched.premises.database.transaction() as connection:
        put(connection, "blind", forbidden, now=watched.premises.clock.now())
    watched.premises.policy._fresh_until = 0.0
    return found


@pytest.fixture
def busy(watched: Watched) -> Iterator[None]:
    """A thousand newer alerts, incidents and changes about another endpoint; and a change of the
    rollout, one that the incident names, and an alert about the source."""
    later, connections = watched.now + timedelta(days=1), watched.premises.database
    other = {"subject_kind": "endpoint", "subject_key": "elsewhere"}
    common = {"state": "open", "evidence": {}}
    alert = {**common, "name": "n", "severity": "critical", "message": "m", "n_seen": 1,
             "last_seen_at": later, "resolution": ""}  # fmt: skip
    incident = {"state": "open", "title": "t", "impact": "high", "urgency": "high", "priority": 1,
                "opened_by": "user:omar", "resolution": ""}  # fmt: skip
    change = {**common, "kind": "by_hand", "title": "t", "reason": "r", "payload": {},
              "requested_by": "user:omar", "state": "waiting", "decision": ""}  # fmt: skip
    rollout = {"subject_kind": "rollout", "subject_key": "try-two"}
    version = {"subject_kind": "model_version", "subject_key": "late/1"}
    source = {"subject_kind": "source", "subject_key": "orders"}
    early = watched.now - timedelta(days=1)
    given: dict[Table, list[dict[str, Any]]] = {
        tables.alerts: [
            *({**alert, **other, "id": f"alert_z{n}", "raised_at": later} for n in range(1000)),
            {**alert, **source, "id": "alert_of_source", "raised_at": early},
        ],
        tables.incidents: [
            {**incident, **other, "id": f"incident_z{n}", "opened_at": later} for n in range(1000)
        ],
        tables.changes: [
            *({**change, **other, "id": f"change_z{n}", "requested_at": later}
              for n in range(1000)),
            {**change, **rollout, "id": "change_of_rollout", "requested_at": early},
            {**change, **version, "id": "change_of_incident", "requested_at": early},
        ],
    }  # fmt: skip
    link = {"of": watched.incident, "to": "change_of_incident", "kind": "change", "at": later}
    with connections.transaction() as connection:
        for table, rows in given.items():
            connection.execute(table.insert(), rows)
        connection.execute(tables.links.insert(), [link])
    yield
    with connections.transaction() as connection:
        for table, rows in given.items():
            connection.execute(table.delete().where(table.c.id.in_([one["id"] for one in rows])))
        connection.execute(tables.links.delete().where(tables.links.c.to == link["to"]))


def words(text: str) -> str:
    """The text of a page without its markup, each run of blanks as one."""
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_small_has_no_script_and_writes_names_as_text(
    amina: Browser, path: str
) -> None:
    answer = amina.open(path)
    assert answer.status_code == 200, answer.text
    assert len(answer.content) < 150_000
    assert "script-src" not in answer.headers["content-security-policy"]
    assert "<script" not in answer.text
    assert "<img" not in answer.text
    assert " style=" not in answer.text


@pytest.mark.parametrize("path", PAGES)
def test_whoever_is_not_signed_in_is_led_to_the_sign_in(watched: Watched, path: str) -> None:
    answer = Browser(TestClient(watched.app, base_url=ORIGIN)).open(path)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login?next=")


@pytest.mark.parametrize("path", PAGES)
def test_whoever_may_see_nothing_sees_nothing_of_it(stranger: Browser, path: str) -> None:
    answer = stranger.open(path)
    assert answer.status_code in {403, 404}
    for secret in ("wind", "1205", "price", "alert(1)", "drifted", 'href="/endpoints/late"'):
        assert secret not in answer.text


def test_the_list_tells_the_endpoint_and_the_last_verdict(amina: Browser) -> None:
    text = amina.open("/monitors").text
    assert 'href="/monitors/watch"' in text
    assert 'href="/endpoints/late"' in text
    assert "alerting: 1 alert" in text
    assert "never checked" in text


def test_a_monitor_shows_value_limit_p_value_and_windows_in_a_row(amina: Browser) -> None:
    text = amina.open("/monitors/watch").text
    (row,) = re.findall(r"<tr><th scope=\"row\">wind</th>.*?</tr>", text)
    assert words(row) == (
        "wind drifted: PSI 0.29 (limit 0.2) 4 0.45 0.45 – 0.225 0.0003 1.0% to 2.0%"
    )
    assert "PSI (limit 0.2)" in text


def test_a_monitor_names_faults_of_data_and_shows_hostile_names_as_text(amina: Browser) -> None:
    text = amina.open("/monitors/watch").text
    assert "unit change" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; is 3.6 times as large." in text
    assert HOSTILE not in text


def test_a_monitor_draws_its_course_with_the_limit(amina: Browser) -> None:
    text = amina.open("/monitors/watch").text
    figure = text.split('aria-label="PSI of wind in each window"')[1].split("</figure>")[0]
    assert figure.count("<circle") == 6
    assert "limit 0.2" in figure


def test_a_monitor_tells_of_predictions_and_of_labels(amina: Browser) -> None:
    told = words(amina.open("/monitors/watch").text)
    assert "Drift of the predictions PSI 0.07 (limit 0.2)" in told
    assert "35.0% 300 20.0% 400 0.01 drifted: the share moved by 12 points" in told


def test_a_monitor_without_a_check_says_so(amina: Browser) -> None:
    told = words(amina.open("/monitors/quiet").text)
    assert "This monitor has no report of drift." in told
    assert "never checked" in told


def test_performance_sets_what_is_known_beside_what_is_estimated(amina: Browser) -> None:
    text = amina.open("/monitors/watch/performance").text
    told = words(text)
    # An AUC of 0.81 on the reference may fall by 0.05, to 0.76.
    assert "Known figures are told from labels that have arrived." in told
    assert "Estimated figures use no label" in told
    assert "Known (at least 0.7) Labels Estimated (at least 0.76)" in told
    assert "0.64 (0.61 to 0.67), beyond its limit 60 of 200 0.79 (0.74 to 0.84)" in told
    # Of the young period more labels may come, and it raises no alert.
    assert "0.6 (0.57 to 0.63), too young to tell 30 of 200 0.79 (0.74 to 0.84)" in told
    assert "young: labels are still coming" in told
    assert 'class="line second"' in text


def test_performance_shows_slices_losses_and_calibration(amina: Browser) -> None:
    text = amina.open("/monitors/watch/performance").text
    told = words(text)
    assert "Groups with too few labels to be shown: 1." in told
    assert IMAGE not in text
    assert "&#34;&gt;&lt;img src=x" in text
    assert "0.41 (0.36 to 0.46)" in told
    assert "0.08 (0.06 to 0.1), beyond its limit 0.03 0.002" in told


def test_fairness_that_is_told_from_people_is_not_shown_without_a_right_to_it(
    amina: Browser,
) -> None:
    told = words(amina.open("/monitors/watch/performance").text)
    assert "Fairness by channel" in told
    assert "Fairness by gender" not in told
    assert "Kept reports of fairness that cannot be shown: 1." in told


def test_a_source_shows_freshness_volume_and_failures_without_values(amina: Browser) -> None:
    text = amina.open("/sources/orders").text
    told = words(text)
    assert "Rows last written" in told
    assert "refused 100 0 2" in told
    assert "7 of 100 rows 17" in told
    assert 'href="/contracts/orders-contract"' in text


def test_a_contract_shows_the_trend_of_its_checks(amina: Browser) -> None:
    text = amina.open("/contracts/orders-contract").text
    told = words(text)
    assert "failed 0.07 (at most 0.01) 1 of 3" in told
    assert text.count("<circle") == 3
    assert HOSTILE not in text


def test_alert_incident_monitor_endpoint_and_rollout_lead_to_each_other(
    amina: Browser, watched: Watched
) -> None:
    alert, incident = f"/alerts/{watched.alert}", f"/incidents/{watched.incident}"
    ways = {
        "/endpoints/late": ("/monitors/watch", alert, incident, "/rollouts/try-two"),
        "/monitors/watch": ("/endpoints/late", alert, incident, "/rollouts/try-two"),
        alert: ("/monitors/watch", "/endpoints/late", incident),
        incident: ("/monitors/watch", "/endpoints/late", alert),
        "/rollouts/try-two": ("/endpoints/late",),
        "/sources": ("/sources/orders", "/contracts/orders-contract"),
    }
    for path, leads in ways.items():
        text = amina.open(path).text
        assert [one for one in leads if f'href="{one}"' not in text] == [], path


@pytest.mark.parametrize(
    ("name", "share", "shadow", "told"),
    [
        ("divided", 0.2, False, "champion late 1 80.0% two late 2 20.0%"),
        ("shadowed", 0.5, True, "champion late 1 100.0% two late 2 in the shadow"),
        ("undivided", None, False, "champion late 1 100.0% two late 2 0.0%"),
    ],
)
def test_an_endpoint_shows_the_variants_that_serve_and_what_share_meets_each_now(
    amina: Browser, watched: Watched, name: str, share: float | None, shadow: bool, told: str
) -> None:
    watched.serve_two(name, share, shadow=shadow)
    text = words(amina.open(f"/endpoints/{name}").text)
    assert f"Variant Model Share {told}" in text
    assert "Nothing serves now." not in text


@pytest.mark.usefixtures("busy")
def test_what_is_about_an_endpoint_is_found_among_thousands_about_others(
    amina: Browser, watched: Watched
) -> None:
    alert, incident = f"/alerts/{watched.alert}", f"/incidents/{watched.incident}"
    named = "/changes/change_of_incident"
    ways = {
        "/endpoints/late": (alert, incident, "/changes/change_of_rollout", named),
        "/monitors/watch": (alert, incident, "/changes/change_of_rollout", named),
        alert: (incident,),
        named: (incident,),
        "/sources/orders": ("/alerts/alert_of_source",),
    }
    for path, leads in ways.items():
        text = amina.open(path).text
        assert [one for one in leads if f'href="{one}"' not in text] == [], path


def test_a_monitor_finds_its_alerts_among_a_thousand_newer_ones_of_other_monitors(
    amina: Browser, watched: Watched
) -> None:
    later = watched.now + timedelta(days=1)
    others = [
        {"id": f"alert_y{n}", "name": f"other:{n}", "subject_kind": "endpoint",
         "subject_key": "late", "severity": "warning", "message": "m", "evidence": {},
         "state": "open", "raised_at": later, "last_seen_at": later, "n_seen": 1,
         "resolution": ""}
        for n in range(1001)
    ]  # fmt: skip
    with watched.premises.database.transaction() as connection:
        connection.execute(tables.alerts.insert(), others)
    try:
        text = amina.open("/monitors/watch").text
    finally:
        with watched.premises.database.transaction() as connection:
            mine = tables.alerts.c.id.in_([one["id"] for one in others])
            connection.execute(tables.alerts.delete().where(mine))
    assert f'href="/alerts/{watched.alert}"' in text
    assert "other:" not in text


def test_a_monitor_that_there_is_not_is_a_page_that_says_so(amina: Browser) -> None:
    assert amina.open("/monitors/none").status_code == 404
    assert amina.open(f"/monitors/{HOSTILE.replace('/', '%2F')}").status_code in {404, 422}


def test_whoever_signs_in_comes_back_to_the_page_that_was_asked_for(watched: Watched) -> None:
    page = Browser(TestClient(watched.app, base_url=ORIGIN)).open("/login?next=/monitors/watch")
    assert 'value="/monitors/watch"' in page.text
    for foreign in ("/monitors/../account/deeds/x", "/monitors//evil", "/monitors/a/deeds/b"):
        assert own_page(foreign) == "/account"
