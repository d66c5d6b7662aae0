"""Where subject keys are kept by the settings, and what doctor says of them."""

import sqlite3

import pyarrow as pa
import pytest

from falaj.interfaces.doctor import examined
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings
from falaj.lake.personal import PersonalGroup, PersonalRule, record_rule
from falaj.testing.subjects_suite import made
from falaj.wiring.assembly import assemble
from falaj.wiring.keyparts import rewrappables
from falaj.wiring.privacyparts import key_table, weaknesses
from falaj.wiring.setup import initialise


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    folder = tmp_path_factory.mktemp("privacy")
    settings = Settings.read(folder, privacy={"replica": f"sqlite:{folder / 'elsewhere'}"})
    initialise(settings, owner="owner")
    premises = assemble(settings)
    yield premises
    premises.close()


def test_keys_are_in_the_home_and_in_the_replica_that_the_settings_name(platform):
    made(platform.subject_keys, "1")
    assert (platform.settings.home / "subjects" / "keys.sqlite").exists()
    replica = platform.settings.model_copy(
        update={
            "privacy": platform.settings.privacy.model_copy(
                update={"subject_keys": platform.settings.privacy.replica, "replica": ""}
            )
        }
    )
    assert key_table(replica, platform.keys).count() == platform.subject_keys.table.count()
    assert platform.subject_keys in rewrappables(platform)


def test_what_is_not_well_with_subject_keys_is_told(platform, monkeypatch):
    lake = platform.lake
    lake.append("people", pa.table({"who": ["a"], "n": [1]}))
    assert weaknesses(platform) == []
    record_rule(lake, PersonalRule(table="people", groups=(PersonalGroup(subject="who"),)))
    ((what, do),) = weaknesses(platform)
    assert "1 rows of the table 'people' stand in clear" in what
    assert "privacy seal people" in do
    lake.append("people", pa.table({"who": ["b"], "n": [1]}))
    monkeypatch.setattr("falaj.lake.tables.newest_sequence", lambda _connection: 5)
    told = " ".join(what for what, _ in weaknesses(platform))
    assert "older copy" in told


def test_a_setting_that_names_no_place_for_keys_is_refused(platform, tmp_path):
    for privacy in (
        {"subject_keys": "mysql://x"},
        {"replica": "sqlite:"},
        {"subject_keys": "sqlite:/a/b", "replica": "sqlite:/a/c/../b"},
    ):
        with pytest.raises(InvalidInput, match="privacy"):
            key_table(Settings.read(tmp_path, privacy=privacy), platform.keys)


def test_a_password_in_the_settings_file_is_refused(tmp_path):
    for line in ('replica_password = "x"', 'subject_keys = "postgresql://u:x@h/d"'):
        (tmp_path / "falaj.toml").write_text(f"[privacy]\n{line}\n")
        with pytest.raises(InvalidInput, match="holds a secret") as told:
            Settings.read(tmp_path)
        assert "FALAJ_PRIVACY__" in told.value.hint


def test_doctor_says_where_keys_are(platform):
    platform.lake.replace("people", pa.table({"who": ["a"], "n": [1]}))
    found = {one.component: one for one in examined(platform.settings)}["subject keys"]
    assert found.well, found
    assert "replicated" in found.told


def test_doctor_tells_of_a_replica_that_is_ahead_and_of_a_damaged_store(tmp_path):
    privacy = {"replica": f"sqlite:{tmp_path / 'elsewhere'}"}
    home = tmp_path / "home"
    initialise(Settings.read(home, privacy=privacy), owner="owner")
    premises = assemble(Settings.read(home, privacy=privacy))
    made(premises.subject_keys, "1", "2")
    premises.close()
    lost = {**privacy, "subject_keys": f"sqlite:{tmp_path / 'lost'}"}
    premises = assemble(Settings.read(home, privacy=lost))
    ((what, do),) = weaknesses(premises)
    assert "2 keys, and the first place is empty" in what
    assert "privacy.subject_keys name the place of the replica" in do
    premises.close()
    file = sqlite3.connect(tmp_path / "elsewhere" / "keys.sqlite")
    file.execute("UPDATE pseudonyms SET body = zeroblob(length(body))")
    file.commit()
    file.close()
    premises = assemble(Settings.read(home, privacy=privacy))
    ((what, _),) = weaknesses(premises)
    assert "in the replica, of 2 keys 2 are counted, 2 are found by name and 0 by" in what
    premises.close()
