"""Settings: one tree, three sources, clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings, private_folder


def test_everything_has_a_default_that_needs_nothing_started(tmp_path: Path) -> None:
    settings = Settings.read(tmp_path)
    assert settings.home == tmp_path / ".falaj"
    assert settings.database_url == f"sqlite:///{tmp_path / '.falaj' / 'falaj.db'}"
    assert (settings.lake, settings.blobs, settings.online) == ("ducklake:", "file:", "lmdb:")


def test_arguments_beat_the_environment_and_that_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "falaj.toml").write_text('region = "file"\n[http]\nport = 1\n')
    assert Settings.read(tmp_path).region == "file"
    monkeypatch.setenv("FALAJ_REGION", "environment")
    monkeypatch.setenv("FALAJ_HTTP__PORT", "2")
    assert Settings.read(tmp_path).region == "environment"
    assert Settings.read(tmp_path).http.port == 2
    assert Settings.read(tmp_path, region="argument").region == "argument"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("regoin = 'x'", "regoin"),
        ("[http]\nport = 'many'", r"http\.port"),
        ("[http]\nport = 70000", r"http\.port"),
        ("region = ", "not valid TOML"),
        ("keyring_passphrase = 'x'", "FALAJ_KEYRING_PASSPHRASE"),
    ],
)
def test_a_wrong_file_is_refused_with_the_settings_name(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "falaj.toml").write_text(text)
    with pytest.raises(InvalidInput, match=told):
        Settings.read(tmp_path)


@pytest.mark.parametrize(("text", "bounds"), [("workers = 3", (3, 3)), ('workers = "1:4"', (1, 4))])
def test_workers_are_a_number_or_the_least_and_the_most(
    tmp_path: Path, text: str, bounds: tuple[int, int]
) -> None:
    (tmp_path / "falaj.toml").write_text(f"[inference]\n{text}\n")
    inference = Settings.read(tmp_path).inference
    assert (inference.least_workers, inference.most_workers) == bounds


@pytest.mark.parametrize("text", ['"0:2"', '"4:1"', '"1:999"', "true", "1.5", '"many"'])
def test_workers_that_cannot_be_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "falaj.toml").write_text(f"[inference]\nworkers = {text}\n")
    with pytest.raises(InvalidInput, match=r"inference\.workers"):
        Settings.read(tmp_path)


@pytest.mark.parametrize("name", ["FALAJ_OUTGOING__ALLOWED", "FALAJ_DATA_FOLDERS", "FALAJ_HTTP"])
def test_a_variable_that_is_no_list_is_named_with_the_way_to_write_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "127.0.0.1")
    with pytest.raises(InvalidInput, match=f"variable {name} is not valid JSON") as refused:
        Settings.read(tmp_path)
    assert f"""{name}='["127.0.0.1"]'""" in refused.value.hint


def test_a_database_password_comes_from_the_environment_and_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALAJ_DATABASE_PASSWORD", "s3cret")
    settings = Settings.read(tmp_path, database="postgresql+psycopg://u@localhost/d")
    assert settings.database_url == "postgresql+psycopg://u:s3cret@localhost/d"
    assert "s3cret" not in repr(settings)


def test_a_private_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be used"):
        private_folder(tmp_path / "file" / "x")


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/guide/settings.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for shown in [f"{name}.{part}" for part in inner] if inner else [name]:
            assert f"`{shown}`" in page, f"docs/guide/settings.md does not mention {shown}"
