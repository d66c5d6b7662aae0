from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from falaj.kernel.errors import Unavailable
from falaj.serving.workload import Reading
from falaj.testing.installations import Installation
from falaj.testing.serving import fronted
from falaj.wiring.assembly import assemble
from falaj.wiring.raypool import keep_ray_pool, ray_worker


def test_an_actor_serves_the_platform_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = Installation(tmp_path / "platform")
    installation.init()
    worker = ray_worker(str(installation.folder), "ray-1")
    try:
        with fronted(worker.application) as url:
            assert httpx.get(f"{url}/readyz").status_code == 200
            reading = Reading.of(worker.workload)
        assert reading is not None
        assert worker.context is not None
        assert worker.context.minimum_version is ssl.TLSVersion.TLSv1_3
    finally:
        worker.close()
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    premises = assemble(installation.settings, process="pool")
    try:
        with pytest.raises(Unavailable, match="no token"):
            keep_ray_pool(premises, installation.folder, None, lambda: None)  # type: ignore[arg-type]
    finally:
        premises.close()
