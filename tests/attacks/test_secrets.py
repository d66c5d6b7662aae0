"""Somebody uploads or declares something with a secret in it."""

import io
import json
import zipfile

import pytest
from sqlalchemy import select

from falaj.testing.planted import PLANTED
from falaj.testing.smallmodels import lightgbm_booster
from falaj.trust.audit_tables import audit_records
from falaj.trust.secretscan import SecretFound

EACH = [(kind, texts[0]) for kind, texts in PLANTED.items()]
NAMES = ("signal", "mean_2d", "count_2d")
MODEL = "class Model:\n    def __init__(self, folder): ...\n"


def zipped(**files):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return sink.getvalue()


def brought(shipped, name, data, model_format="python", **more):
    (shipped.premises.settings.data_folders[0] / name).write_bytes(data)
    return shipped.ask(
        "models.bring", name="late", file=name, model_format=model_format,
        inputs=[{"name": one} for one in NAMES], **more,
    )  # fmt: skip


def everything_recorded(shipped):
    with shipped.premises.database.reading() as connection:
        rows = connection.execute(select(audit_records.c.body, audit_records.c.resource))
        return "\n".join(f"{row.body} {row.resource}" for row in rows)


def refused(shipped, action, secret, ask):
    before = len(shipped.refusals(action))
    with pytest.raises(SecretFound) as error:
        ask()
    told = f"{error.value} {error.value.hint} {error.value.details}"
    assert secret not in told
    assert secret not in everything_recorded(shipped)
    assert shipped.refusals(action)[before:] == ["secret-found"]
    return told


@pytest.mark.parametrize(("kind", "text"), EACH, ids=[kind for kind, _ in EACH])
def test_an_artifact_with_a_secret_is_refused_with_its_place_and_kind(shipped, kind, text):
    data = f"{MODEL}# {text}\n".encode()
    told = refused(shipped, "models.bring", text, lambda: brought(shipped, "planted.py", data))
    assert f"{kind} in planted.py:3" in told


def test_a_secret_in_an_archive_or_a_notebook_inside_is_found(shipped):
    secret = PLANTED["GitHub token"][0]
    notebook = json.dumps({"cells": [{"source": [f"t = '{secret}'"]}]})
    data = zipped(**{"model.py": MODEL, "notes/try.ipynb": notebook})
    told = refused(shipped, "models.bring", secret, lambda: brought(shipped, "planted.zip", data))
    assert "planted.zip!notes/try.ipynb:1" in told


def test_a_secret_in_the_text_of_a_trained_model_is_found(shipped):
    secret = PLANTED["AWS access key"][0]
    text = lightgbm_booster().model_to_string() + f"\nnote={secret}\n"
    refused(
        shipped, "models.bring", secret,
        lambda: brought(shipped, "planted.txt", text.encode(), "lightgbm"),
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), EACH, ids=[kind for kind, _ in EACH])
def test_a_definition_with_a_secret_is_not_applied(shipped, kind, text):
    document = {"kind": "entity", "name": "planted", "keys": {"code": "string"},
                "description": f"Ask with {text} please"}  # fmt: skip
    told = refused(
        shipped, "definitions.apply", text,
        lambda: shipped.ask("definitions.apply", documents=[document]),
    )  # fmt: skip
    assert f"{kind} in definition 0.description" in told
    listed = shipped.ask("definitions.list", kind="entity")
    assert "planted" not in {one.name for one in listed}


def test_a_reason_lets_it_pass_and_is_on_record_without_the_secret(shipped):
    secret = PLANTED["GitLab token"][0]
    why = "A token of the test server, revoked long ago."
    document = {"kind": "entity", "name": "excepted", "keys": {"code": "string"},
                "description": f"Ask with {secret}"}  # fmt: skip
    shipped.ask("definitions.apply", documents=[document], secrets_allowed=why)
    brought(shipped, "excepted.py", f"{MODEL}# {secret}\n".encode(), secrets_allowed=why)
    recorded = everything_recorded(shipped)
    assert secret not in recorded
    assert recorded.count("GitLab token") >= 2
    assert why in recorded
