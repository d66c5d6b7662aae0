"""The event log on Kafka keeps the port's promises, over rebalances, kills and refusals."""

import secrets

import pytest

from falaj.ingest.adapters.eventlog_kafka import KafkaLog
from falaj.ingest.adapters.kafka_clients import KafkaPlace
from falaj.testing.eventlog import EventLogSuite

pytestmark = pytest.mark.services


@pytest.fixture
def place(kafka_server):
    return KafkaPlace((kafka_server.address,), tls=False, prefix=f"t{secrets.token_hex(5)}.")


class TestKafkaLog(EventLogSuite):
    @pytest.fixture
    def reopen(self, place):
        opened = []

        def again():
            for log in opened:
                log.close()
            opened[:] = [KafkaLog(place, session_seconds=6)]
            return opened[0]

        yield again
        for log in opened:
            log.close()
