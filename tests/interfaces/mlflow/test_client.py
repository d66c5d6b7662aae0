"""MLflow's unmodified client against a control plane over TLS, with a CA of its own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import certifi
import pytest

from falaj.testing.mlflowclients import ScriptFailed

SCRIPTS = Path(__file__).with_name("client")
FORMS = ("run", "logged", "version", "alias", "latest")


def transferred(clients, run, folder, *sizes):
    uri = f"mlflow-artifacts:/by-hand/{run}/artifacts"
    return clients.run(SCRIPTS / "transfer.py", uri, str(folder), *map(str, sizes))


def test_artifacts_of_every_size_come_back_and_can_be_listed_and_removed(unmodified, run, tmp_path):
    sizes = (0, 1, 1_048_576, 20_000_000)
    told = transferred(unmodified, run, tmp_path, *sizes)
    assert told == {
        "same": True,
        "listed": {f"kept/deep/{size}.bin": size for size in sizes},
        "top": ["kept", "name with spaces é.txt"],
        "left": ["name with spaces é.txt"],
        "parts": 0,
        "ranges": 0,
    }


def test_a_service_accounts_name_and_secret_do_in_the_place_of_a_token(unmodified, run, tmp_path):
    uri = f"mlflow-artifacts:/by-hand/{run}/artifacts"
    variables = {**unmodified.credentials(), "MLFLOW_TRACKING_TOKEN": "none"}
    told = unmodified.run(SCRIPTS / "transfer.py", uri, str(tmp_path), "5", variables=variables)
    assert told["same"]


@pytest.mark.nightly
def test_an_artifact_of_half_a_gigabyte_leaves_the_servers_memory_flat(unmodified, run, tmp_path):
    def greatest():
        status = Path(f"/proc/{unmodified.installation.pid('control')}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line)

    transferred(unmodified, run, tmp_path / "small", 1_000_000)
    before = greatest()
    assert transferred(unmodified, run, tmp_path / "large", 500_000_000)["same"]
    assert greatest() - before < 40_000  # KB


@pytest.mark.nightly
def test_a_client_that_does_not_know_the_ca_is_refused_by_itself(unmodified, run, tmp_path):
    others = certifi.where()  # an empty name would switch the check off
    without = {"MLFLOW_TRACKING_SERVER_CERT_PATH": others, "REQUESTS_CA_BUNDLE": others}
    with pytest.raises(ScriptFailed, match="CERTIFICATE_VERIFY_FAILED"):
        unmodified.run(
            SCRIPTS / "transfer.py", f"mlflow-artifacts:/x/{run}/artifacts", str(tmp_path), "1",
            variables=without,
        )  # fmt: skip


IN_PARTS = {
    "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD": "true",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "true",
    "MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE": "1",
    "MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE": "1000000",
    "MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE": "700000",
}


@pytest.mark.parametrize("signed_in", ["a token", "a name and a secret"])
def test_a_client_that_wants_parts_and_ranges_gets_them(unmodified, run, tmp_path, signed_in):
    wanted = dict(IN_PARTS)
    if signed_in != "a token":
        wanted |= {**unmodified.credentials(), "MLFLOW_TRACKING_TOKEN": "none"}
    uri = f"mlflow-artifacts:/by-hand/{run}/artifacts"
    sizes = ("0", "1", "1000000", "7654321")
    told = unmodified.run(SCRIPTS / "transfer.py", uri, str(tmp_path), *sizes, variables=wanted)
    assert told["same"]
    assert told["listed"] == {f"kept/deep/{size}.bin": int(size) for size in sizes}
    # Of 1, 1,000,000 and 7,654,321 bytes, and a few words that lie in the folder and beside it.
    assert (told["parts"], told["ranges"]) == (1 + 1 + 8 + 2, 1 + 2 + 11 + 1)


def test_a_logged_model_of_a_workspace_is_sent_in_parts_and_read_by_ranges(unmodified, tmp_path):
    with unmodified.installation.near() as platform:
        platform.runs.start("by hand", workspace="risk")  # makes the experiment
        model = platform.loggedmodels.create("by hand", name="network", workspace="risk").id
    wanted = IN_PARTS | {
        "MLFLOW_TRACKING_URI": unmodified.installation.control + "/t/risk/mlflow",
    }
    uri = f"mlflow-artifacts:/by-hand/models/{model}/artifacts"
    told = unmodified.run(SCRIPTS / "transfer.py", uri, str(tmp_path), "6543210", variables=wanted)
    assert told["same"]
    assert told["listed"] == {"kept/deep/6543210.bin": 6_543_210}
    assert (told["parts"], told["ranges"]) == (7 + 2, 10 + 1)


@pytest.mark.parametrize(
    "flavour",
    [
        "sklearn",
        pytest.param("lightgbm", marks=pytest.mark.nightly),
        pytest.param("xgboost", marks=pytest.mark.nightly),
    ],
)
def test_autolog_keeps_a_model_that_is_registered_and_loaded_by_every_form_of_address(
    unmodified, flavour
):
    told = unmodified.run(SCRIPTS / "autolog.py", flavour)
    assert (told["status"], told["logged_status"]) == ("FINISHED", "READY")
    assert told["params"] > 0
    assert told["outputs"] == [told["logged"]]
    assert told["source_run"]
    assert told["same"] == dict.fromkeys(FORMS, True)
    assert told["versions"] == [1, 2]


@pytest.mark.nightly
def test_a_model_that_is_logged_by_hand_is_loaded_by_every_form_of_address(unmodified):
    told = unmodified.run(SCRIPTS / "register.py", "churn")
    assert told["same"] == dict.fromkeys(FORMS, True)
    assert [int(version) for version in told["versions"]] == [1, 2]


@pytest.mark.nightly
def test_ten_clients_at_once_each_find_what_they_kept(unmodified):
    def one(number):
        return unmodified.run(SCRIPTS / "one_of_many.py", str(number))

    with ThreadPoolExecutor(10) as pool:
        for number, told in enumerate(pool.map(one, range(10))):
            assert told == {
                "param": str(number), "history": [1 / (n + 1) for n in range(5)], "texts": True,
            }  # fmt: skip


@pytest.mark.nightly
def test_a_network_trained_by_lightning_under_autolog_is_loaded_by_every_form(with_torch):
    told = with_torch.run(SCRIPTS / "pytorch.py", "autolog")
    assert told["status"] == "FINISHED"
    assert (told["epochs"], told["optimizer"]) == ("3", "Adam")
    assert told["loss"] == [0, 1, 2]
    assert "model_summary.txt" in told["artifacts"]
    assert told["same"] == dict.fromkeys(FORMS, True)


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["pt2", "pickle"])
def test_a_network_that_is_logged_by_hand_is_loaded_by_every_form(with_torch, form):
    told = with_torch.run(SCRIPTS / "pytorch.py", "log", form)
    assert told["same"] == dict.fromkeys(FORMS, True)
