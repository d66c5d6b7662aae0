from __future__ import annotations

from pathlib import Path

from falaj.serving.balancing import haproxy, written


def test_the_balancer_passes_tcp_to_every_worker_that_is_ready() -> None:
    told = haproxy(["10.0.0.1:4001", "10.0.0.2:4002"], port=8444, ca_file="/ca.pem")
    assert "mode tcp" in told
    assert "bind :8444" in told
    assert "option httpchk GET /readyz" in told
    servers = [line.split() for line in told.splitlines() if line.strip().startswith("server")]
    assert [line[2] for line in servers] == ["10.0.0.1:4001", "10.0.0.2:4002"]
    assert len({line[1] for line in servers}) == 2
    assert all("verify required ca-file /ca.pem" in " ".join(line) for line in servers)


def test_the_probes_show_a_certificate_where_there_is_one() -> None:
    told = haproxy(["10.0.0.1:4001"], port=8444, ca_file="/ca.pem", certificate="/probe.pem")
    (server,) = [line for line in told.splitlines() if line.strip().startswith("server")]
    assert " crt /probe.pem verifyhost " in server
    assert " crt " not in haproxy(["10.0.0.1:4001"], port=8444, ca_file="/ca.pem")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "inference.addresses"
    written(path, "one\n")
    written(path, "two\n")
    assert path.read_text() == "two\n"
    assert list(tmp_path.iterdir()) == [path]
