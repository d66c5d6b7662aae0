"""What an operator sees of a running platform: the live table, status and metrics agree."""

import json
import threading
import time
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

import falaj
from falaj.interfaces.session import Session
from falaj.interfaces.top import shown
from falaj.testing.installations import eventually

PREDICT = "/v1/endpoints/late/predict"


@contextmanager
def traffic(running, story, mint):
    """Asks for predictions, and for what is wrong, until the block ends; yields the counts."""
    stop = threading.Event()
    asked = {"right": 0, "wrong": 0}
    with running.asked(mint()) as client:

        def ask():
            while not stop.is_set():
                assert client.post(PREDICT, json={"inputs": [story.QUESTION] * 2}).is_success
                asked["right"] += 1
                if asked["right"] % 10 == 0:
                    assert client.post(PREDICT, json={"inputs": []}).status_code == 400
                    asked["wrong"] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield asked
        finally:
            stop.set()
            thread.join()


def _is_true(row):
    assert row["endpoint"] == "late"
    assert row["requests_per_second"] > 0
    assert row["predictions_per_second"] > row["requests_per_second"]
    assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"] <= row["p999_ms"] < 10_000
    assert 0 < row["errors_per_second"] < row["requests_per_second"]
    assert row["batch_rows"] > 1
    assert row["workers"] == 1
    assert row["release"].startswith("release_")


def test_top_shows_what_is_asked_now_near(running, story, mint, command):
    folder = running.installation.folder
    with traffic(running, story, mint) as asked:
        eventually(lambda: asked["wrong"])  # the first answers of a busy machine may take long
        told = command(folder, "--json", "endpoints", "top", "--once", "--every", "2")
        text = command(folder, "endpoints", "top", "--once", "--every", "0.5").out
    (row,) = json.loads(told.out)
    _is_true(row)
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["endpoint", "variant", "req/s"]
    assert lines[1].split()[:2] == ["late", "champion"]


def test_top_shows_the_same_over_https(running, story, mint):
    session = Session(
        folder=running.installation.folder, url=running.control, ca=running.ca,
        as_json=True, code=None, purpose=None,
    )  # fmt: skip
    session.console = Console(width=300, record=True)
    far = falaj.connect(running.control, token=mint(), ca=running.ca)
    with far as platform, traffic(running, story, mint) as asked:
        eventually(lambda: asked["wrong"])
        session.__dict__["platform"] = platform
        shown(session, once=True, every=2.0)
    (row,) = json.loads(session.console.export_text())
    _is_true(row)


def test_metrics_status_and_traffic_tell_one_story(running, story, mint):
    with (
        falaj.connect(running.control, token=mint(), ca=running.ca) as platform,
        running.asked(mint()) as inference,
    ):
        before = _served(platform)
        with traffic(running, story, mint) as asked:
            time.sleep(0.3)
        status = platform.endpoints.status("late").traffic
        text = inference.get("/metrics").text
        after = _served(platform)
    counted = {
        (sample.name, sample.labels.get("variant")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("endpoint") == "late"
    }
    assert asked["right"] > 0
    # Others may ask the same platform meanwhile.
    assert before.requests + asked["right"] <= status.variants[0].requests
    assert (
        status.variants[0].requests
        <= counted["falaj_endpoint_seconds_count", "champion"]
        <= after.requests
    )
    assert (
        before.predictions + 2 * asked["right"]
        <= status.predictions
        <= counted["falaj_endpoint_predictions_total", "champion"]
        <= after.predictions
    )
    assert status.refused >= asked["wrong"]


def _served(platform):
    series = platform.endpoints.traffic().series
    (served,) = [one for one in series if (one.endpoint, one.variant) == ("late", "champion")]
    return served
