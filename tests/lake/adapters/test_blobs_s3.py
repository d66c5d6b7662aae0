from __future__ import annotations

import pytest

from falaj.kernel.errors import Forbidden, Unavailable
from falaj.lake.adapters.blobs_s3 import S3Blobs
from falaj.testing.blobs import BlobStoreSuite

pytestmark = pytest.mark.services


def blobs(server, **changed):
    given = {
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "endpoint": server.endpoint,
        "region": server.region,
        "prefix": "falaj",
        **changed,
    }
    return S3Blobs(server.bucket, **given)


class TestS3Blobs(BlobStoreSuite):
    @pytest.fixture
    def store(self, s3_server):
        return blobs(s3_server)


def test_a_wrong_secret_is_told_as_such(s3_server):
    with pytest.raises(Forbidden, match="credentials"):
        blobs(s3_server, secret_key="wrong").put("k", b"1")


def test_a_server_that_is_away_is_unavailable(s3_server):
    store = blobs(s3_server, endpoint="http://127.0.0.1:9", timeout_seconds=0.2)
    with pytest.raises(Unavailable, match="does not answer"):
        store.get("k")
