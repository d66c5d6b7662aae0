import socket

import pytest

from falaj.interfaces.supervisor import PortTaken, reserved


def sharing(port):
    """A socket bound as gRPC binds in a worker."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_workers_listen_on_a_port_that_is_reserved_and_it_takes_none_of_their_clients(port):
    held = reserved("127.0.0.1", port, "inference", key="grpc_port")
    with held, sharing(port) as first, sharing(port) as second:
        first.listen()
        second.listen()
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
                client.settimeout(2)
                first.setblocking(False)
                second.setblocking(False)
                accepted = []
                for one in (first, second):
                    try:
                        accepted.append(one.accept()[0])
                    except BlockingIOError:
                        continue
                assert len(accepted) == 1
                accepted[0].close()


def test_a_taken_port_is_told_with_the_setting_that_names_it(port):
    with socket.create_server(("127.0.0.1", port)), pytest.raises(PortTaken) as error:
        reserved("127.0.0.1", port, "inference", key="grpc_port")
    assert "inference.grpc_port" in error.value.hint


def test_a_port_of_somebody_who_would_share_it_is_taken_too(port):
    with sharing(port) as other:
        other.listen()
        with pytest.raises(PortTaken):
            reserved("127.0.0.1", port, "inference", key="grpc_port")
