from __future__ import annotations

from datetime import UTC, datetime

import pytest

from falaj.kernel.clock import SetClock
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal


@pytest.fixture
def keys(tmp_path):
    clock = SetClock(datetime(2026, 1, 1, tzinfo=UTC))
    return FileKeyring.create(tmp_path / "k.json", MachineSeal.create(tmp_path / "s"), clock=clock)


@pytest.fixture
def lake(tmp_path):
    lake = DuckLake.in_folder(tmp_path / "lake", threads=1, memory="1GB")
    yield lake
    lake.close()
