"""The explicit proxy of a hospital, by a real forwarding proxy as a process of its own.

Real TLS to the coordinator's application, CONNECT through proxy.py: what works through it, and how
the client says what does not.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.config import NetworkSection
from appliance.connection import Connection
from appliance.enrolment import connect, load_enrolment
from appliance.joining import enrol
from appliance.keys import load_keys
from appliance.rounds.outbox import Outbox
from appliance.trust import load_trust
from coordinator.certificates import Authority
from coordinator.enrolment import approve
from federation.errors import ConfigError, TransportError
from federation.membership import EnrolmentAnswer
from federation.signing import Identity
from tests.unit.appliance.desk import Desk, open_desk
from tests.unit.appliance.filling import fill


@contextmanager
def forwarding(folder: Path, *options: str) -> Iterator[str]:
    """proxy.py on a free port; gives ``host:port``."""
    ports = folder / "ports"
    ports.unlink(missing_ok=True)
    command = [sys.executable, "-m", "proxy", "--port", "0", "--port-file", str(ports)]
    command += ["--num-workers", "1", "--num-acceptors", "1", "--log-level", "ERROR", *options]
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(200):
            if ports.exists() and (port := ports.read_text().strip()) and answers(int(port)):
                break
            assert process.poll() is None, (folder / "proxy.log").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as made:
        yield made


def join(desk: Desk, proxy: str, **network: str) -> EnrolmentAnswer:
    file = desk.paths.home.parent / "invite.json"
    file.write_bytes(desk.invite.to_json())
    return enrol(file, desk.paths, NetworkSection(proxy=f"http://{proxy}", **network))


def refused(desk: Desk, proxy: str, **network: str) -> TransportError:
    with pytest.raises(TransportError) as caught:
        join(desk, proxy, **network)
    assert desk.line.asked == []
    assert not desk.paths.enrolment.exists()
    return caught.value


def test_enrolment_and_an_upload_go_through_a_proxy(desk: Desk, tmp_path: Path) -> None:
    with forwarding(tmp_path) as proxy:
        assert join(desk, proxy).status == "waiting"
        approve(desk.world.coordinator, desk.world.admin, "a")
        desk.world.open()
        enrolment, own = load_enrolment(desk.paths), load_keys(desk.paths).current
        folder = desk.paths.round(1)
        outbox = Outbox(folder / "outbox", load_trust(desk.paths), own)
        with connect(enrolment, own, NetworkSection(proxy=f"http://{proxy}")) as client:
            fill(outbox, client, load_trust(desk.paths), own, folder)
            receipt = outbox.deliver(client, lambda: time.time() + 60, lambda _: None)
    assert receipt.accepted
    # A direct connection would have left no trace in a proxy that is gone.
    with (
        pytest.raises(TransportError, match="proxy"),
        connect(enrolment, own, NetworkSection(proxy=f"http://{proxy}")) as client,
    ):
        client.current()


def test_a_proxy_that_demands_a_password_gets_it_from_the_setting(
    desk: Desk,
    tmp_path: Path,
) -> None:
    with forwarding(tmp_path, "--basic-auth", "user:secret") as proxy:
        for given in (proxy, f"user:wrong@{proxy}"):
            error = refused(desk, given)
            assert "407" in str(error)
            assert "network.proxy" in error.hint
            assert not error.retryable
            assert "wrong" not in str(error) + error.hint
        assert join(desk, f"user:secret@{proxy}").status == "waiting"


def test_a_proxy_that_is_down_is_named_by_its_setting(desk: Desk, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{taken.getsockname()[1]}"
        error = refused(desk, f"user:secret@{proxy}")
    assert proxy in str(error)
    assert "network.proxy" in error.hint
    assert "secret" not in str(error) + error.hint
    assert error.retryable


def test_a_proxy_that_inspects_tls_is_refused(desk: Desk, tmp_path: Path) -> None:
    """It shows a certificate of its own authority, which is not the invite's."""
    own = Authority(tmp_path / "inspector")
    own.create("inspector", int(time.time()), None)
    leaf = own.server_files(["127.0.0.1"], int(time.time()), None)
    options = ("--ca-cert-file", str(own.certificate), "--ca-key-file", str(own.key))
    options += ("--ca-signing-key-file", str(leaf.key), "--ca-cert-dir", str(tmp_path / "leaves"))
    options += ("--insecure-tls-interception",)
    (tmp_path / "leaves").mkdir()
    with forwarding(tmp_path, *options) as proxy:
        error = refused(desk, proxy)
        assert "does not have the federation's certificate" in str(error)
        assert list((tmp_path / "leaves").glob("*.pem"))
        assert not error.retryable


@pytest.mark.parametrize(
    "proxy", ["proxy.example:3128", "http://", "socks5://proxy:1", "http://[::"]
)
def test_a_proxy_that_is_no_url_is_named_by_its_setting(proxy: str) -> None:
    with pytest.raises(ConfigError, match=r"network\.proxy") as caught:
        Connection(
            url="https://coordinator.example",
            hospital="a",
            key=Identity.generate().ed25519,
            verify=ssl.create_default_context(),
            proxy=proxy,
        )
    assert "http://proxy.example:3128" in caught.value.hint
