"""The pages of rollouts as people use them, without a script."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta

import pyotp
import pytest
from starlette.testclient import TestClient

from falaj.features.model import FeatureService
from falaj.interfaces.plots import Series, band_plot, course_plot
from falaj.interfaces.processes import control_app
from falaj.kernel.clock import SystemClock
from falaj.kernel.ids import new_id
from falaj.kernel.settings import Settings
from falaj.models.model import ModelPolicy
from falaj.rollouts import runs
from falaj.rollouts.model import (
    Challenger,
    GuardrailReading,
    Look,
    Rollout,
    RolloutKind,
    RolloutState,
    Success,
    SuccessReading,
)
from falaj.rollouts.records import Run, Step
from falaj.serving.model import Endpoint
from falaj.testing.browsers import Browser, forms
from falaj.trust.model import Role
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

PASSWORD = "seven camels cross the wadi"
START = SystemClock().now() - timedelta(hours=1)
ROLLOUT = Rollout(
    name="try-two", endpoint="late", how=RolloutKind.AB, success=Success(metric="error_rate"),
    challengers=(Challenger(name="two", version=2, share=0.5),), description="<b>bold</b> claims",
)  # fmt: skip


@pytest.fixture(scope="module")
def premises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Premises]:
    settings = Settings.read(tmp_path_factory.mktemp("pages"))
    initialise(settings, owner="owner")
    made = assemble(settings)
    with made.calls.opened("test.prepare", "user:owner") as call:
        policy = ModelPolicy(name="late", feature_service="fields", label="late")
        fields = FeatureService(name="fields", request_fields={"x": "float64"})
        never = ROLLOUT.model_copy(update={"name": "never"})
        made.definitions.apply(
            call, [fields, policy, Endpoint(name="late", model="late", unit="x"), ROLLOUT, never]
        )
        _run(call.connection)
    yield made
    made.close()


def _run(connection) -> None:  # type: ignore[no-untyped-def]
    shares = {"champion": 0.5, "two": 0.5}
    run = Run(
        id=new_id("rol"), name="try-two", endpoint="late", rollout=ROLLOUT, change="change_1",
        state=RolloutState.RUNNING, step=Step.LOOK, release="release_1", model="late", champion=1,
        stage_since=START, shares=shares, shares_since=START, started_at=START,
        started_by="user:amina", due_at=START, why="It <i>runs</i>.",
    )  # fmt: skip
    assert runs.begun(connection, run)
    for place in range(5):
        figures = {"n_champion": 100.0, "n_challenger": 100.0}
        look = Look(
            units={"champion": 512, "two": 498},
            guardrails=[
                GuardrailReading(metric="latency", challenger="two", champion=0.012, **figures,
                                 challenger_value=0.013, worse_by=-0.02, error=0.02)
            ],
            success=[
                SuccessReading(metric="bought", challenger="two", estimate=0.01 * place,
                               low=-0.2 + 0.02 * place, high=0.3 - 0.02 * place, **figures)
            ],
        )  # fmt: skip
        at = START + timedelta(minutes=place)
        counted = run.model_copy(update={"n_looks": place})
        runs.keep_look(connection, counted, at, look, decision="wait", why="")


@pytest.fixture(scope="module")
def browser(premises: Premises) -> Browser:
    found = Browser(TestClient(control_app(premises), base_url="https://localhost:8443"))
    with premises.database.transaction() as connection:
        link = premises.authentication.enrolment.invite(
            connection, name="amina", roles=(Role.ML_ENGINEER,), created_by="user:owner",
            now=premises.clock.now(),
        )  # fmt: skip
    page = found.open(f"/enrol?secret={link.secret.get_secret_value()}")
    page = found.send(page, "/enrol", name="amina", password=PASSWORD, again=PASSWORD)
    (form,) = forms(page)
    code = pyotp.TOTP(form.fields["totp_secret"]).now()
    done = found.post(form.action, {**form.fields, "code": code})
    codes = [part.split("</code>")[0] for part in done.text.split("<code>")[1:11]]
    assert found.login("amina", PASSWORD, codes.pop(), "").status_code == 303
    return found


def test_the_list_leads_to_each_rollout(browser: Browser) -> None:
    page = browser.open("/rollouts").text
    assert '<a href="/rollouts/try-two">' in page
    assert "never started" in page


def test_the_page_shows_shares_guardrails_and_the_estimate_over_looks(browser: Browser) -> None:
    page = browser.open("/rollouts/try-two").text
    for told in (
        "50.0 %",
        "498",
        "latency",
        "0.013",
        "-2.00 %",
        "+4.00 %",
        "<polyline",
        "<polygon",
    ):
        assert told in page
    assert "<script" not in page.split("<main")[1]
    assert "&lt;b&gt;bold" in page
    assert "It &lt;i&gt;runs" in page


def test_a_rollout_that_never_ran_says_how_it_is_started(browser: Browser) -> None:
    assert "falaj rollouts start never" in browser.open("/rollouts/never").text


def test_a_rollout_is_paused_and_its_reason_told(browser: Browser, premises: Premises) -> None:
    page = browser.open("/rollouts/try-two")
    done = browser.send(page, "/rollouts/try-two/deeds/pause", reason="Black Friday.")
    assert (done.status_code, done.headers["location"]) == (303, "/rollouts/try-two")
    page = browser.open("/rollouts/try-two")
    assert "Paused" in page.text
    assert "Black Friday." in page.text
    assert "/rollouts/try-two/deeds/resume" in page.text
    with premises.database.reading() as connection:
        run = runs.newest(connection, "try-two")
    assert run is not None
    assert run.state is RolloutState.PAUSED


def test_a_form_without_a_reason_is_refused_on_the_page(browser: Browser) -> None:
    page = browser.open("/rollouts/try-two")
    refused = browser.send(page, "/rollouts/try-two/deeds/stop", reason=" ")
    assert refused.status_code == 422
    assert "The reason is empty" in refused.text


def test_a_plot_needs_two_points_and_holds_zero() -> None:
    later = START + timedelta(minutes=1)
    assert band_plot([START], [0.1], [0.0], [0.2]) is None
    plot = band_plot([START, later], [0.2, 0.1], [None, 0.05], [None, 0.15])
    assert plot is not None
    assert plot.band == ""
    places = [tuple(map(float, one.split(","))) for one in plot.line.split()]
    assert places[0][0] < places[1][0] <= plot.right
    assert all(down < plot.zero for _, down in places)


def test_a_course_needs_two_instants_and_holds_its_limits() -> None:
    later = START + timedelta(minutes=1)
    assert course_plot([Series("psi", [START], [0.1])], [0.2]) is None
    assert course_plot([Series("psi", [START, later], [0.1, None])], [0.2]) is None
    plot = course_plot([Series("psi", [START, later], [0.0, 0.1])], [0.2])
    assert plot is not None
    (drawn,) = plot.drawn
    assert [across for across, _ in drawn.dots] == [plot.left, plot.right]
    assert plot.limits[0].at < drawn.dots[1][1] < drawn.dots[0][1]
    assert plot.ticks[0].text == "0"  # what is never below 0 is drawn from there


def test_an_endless_interval_leaves_the_frame_and_stretches_it_not() -> None:
    times = [START, START + timedelta(minutes=1)]
    plot = course_plot([Series("loss", times, [0.4, 0.5], [0.3, 0.4], [math.inf, 0.6])])
    assert plot is not None
    assert all(0 <= down <= plot.height for down in _downs(plot.drawn[0].band))
    assert float(plot.ticks[-1].text) < 1


def _downs(points: str) -> list[float]:
    return [float(one.split(",")[1]) for one in points.split()]
