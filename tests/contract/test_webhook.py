"""Webhooks against receivers of every kind: nobody holds a try longer than its limit, floods it, or leads it elsewhere."""

from __future__ import annotations

import base64
import ipaddress
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from monitor.delivery import Answer, DeliveryPolicy, Outcome, Receiver, WebhookReceiver
from monitor.delivery.outbox import _outcome
from monitor.errors import Fatal
from tests.hostile import (
    Authority,
    Flood,
    HostileServer,
    answering,
    drip_body,
    drip_headers,
    endless_continue,
    hang,
)

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
LIMIT_S = 0.4


def receiver(url: str, **options: Any) -> Receiver:
    defaults: dict[str, Any] = {"allow_http": True, "allow_private": True, "timeout_s": LIMIT_S}
    return Receiver(name="desk", url=url, secrets=(SECRET,), **{**defaults, **options})


def send(server: HostileServer, **options: Any) -> Answer:
    return WebhookReceiver(receiver(f"http://127.0.0.1:{server.port}/hook?a=1", **options)).send(
        "m1", b'{"type":"alert.opened"}', now_s=1
    )


@pytest.mark.parametrize("behave", [hang, drip_headers, endless_continue], ids=lambda b: b.__name__)
def test_a_receiver_that_hangs_or_drips_ends_with_the_limit_and_is_a_failure(behave: Any) -> None:
    """The reads themselves never time out here: only one limit over all of them can end such a try."""
    with HostileServer(behave) as server:
        answer = send(server)
    assert answer == Answer(status=None, detail=f"127.0.0.1: no answer within {LIMIT_S} s")
    assert _outcome(answer) is Outcome.UNREACHABLE


def test_a_resolver_that_hangs_is_left_behind() -> None:
    release = threading.Event()

    def lookup(_host: str, _port: int) -> list[str]:
        release.wait()
        return []

    answer = WebhookReceiver(receiver("https://hook.example/"), lookup=lookup).send("m1", b"{}", now_s=1)
    release.set()
    assert answer == Answer(status=None, detail="receiver host hook.example: no address (TimeoutError)")


def test_a_body_that_drips_for_ever_is_left_and_the_status_counts() -> None:
    with HostileServer(drip_body) as server:
        answer = send(server)
    assert (answer.status, answer.detail) == (200, "127.0.0.1: HTTP 200")


def test_a_body_of_ten_gigabytes_is_left_after_its_first_kilobytes() -> None:
    flood = Flood()
    with HostileServer(flood) as server:
        answer = send(server, timeout_s=30.0)
        assert flood.ended.wait(10), "the connection must be closed, not drained"
    assert answer.status == 200
    assert flood.sent < 64 * 1024**2, "what the sockets' buffers hold, not ten gigabytes"


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent"])
def test_a_redirect_is_a_failure_and_nobody_goes_there(status: str) -> None:
    with HostileServer(answering("200 OK")) as inside:
        away = f"Location: http://127.0.0.1:{inside.port}/latest/meta-data"
        with HostileServer(answering(status, away)) as server:
            answer = send(server)
        assert _outcome(answer) is Outcome.REDIRECTED
        assert inside.requests == []
    with HostileServer(answering(status, "Location: http://169.254.169.254/latest/meta-data")) as server:
        assert _outcome(send(server)) is Outcome.REDIRECTED


def test_a_name_is_asked_once_and_the_checked_address_is_the_one_connected_to() -> None:
    """DNS rebinding: the first answer is the receiver, every later one would be another host."""
    answers = [["127.0.0.1"], ["127.0.0.2"], ["169.254.169.254"]]
    asked: list[tuple[str, int]] = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return answers.pop(0)

    with HostileServer(answering("204 No Content")) as server:
        hook = WebhookReceiver(receiver(f"http://hook.example:{server.port}/x"), lookup=lookup)
        assert hook.send("m1", b"{}", now_s=1).status == 204
        assert asked == [("hook.example", server.port)]
        assert f"host: hook.example:{server.port}".encode() in server.requests[0].lower()
        # The next try asks again, and what is checked then is what counts then.
        assert hook.send("m1", b"{}", now_s=1).status is None
        refused = hook.send("m1", b"{}", now_s=1)
    assert refused.refused
    assert "169.254.169.254 is not a public address, and never a receiver's" in refused.detail
    assert len(server.requests) == 1


def test_the_system_s_resolver_is_not_asked_again_when_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = socket.getaddrinfo

    def counting(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == "hook.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", counting)
    with HostileServer(answering("204 No Content")) as server:
        hook = WebhookReceiver(receiver(f"http://hook.example:{server.port}/"))
        assert hook.send("m1", b"{}", now_s=1).status == 204
    assert asked.count("hook.example") == 1
    assert set(asked) <= {"hook.example", "127.0.0.1"}


def test_over_tls_the_name_is_in_sni_host_and_certificate_and_the_address_is_the_checked_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with HostileServer(answering("200 OK"), context=authority.server_context("hook.example")) as server:
        target = receiver(f"https://hook.example:{server.port}/x", ca_file=authority.file, timeout_s=10.0)
        answer = WebhookReceiver(target, lookup=lambda _h, _p: ["127.0.0.1"]).send("m1", b"{}", now_s=1)
    assert answer.status == 200, answer
    assert server.names == ["hook.example"]
    assert f"host: hook.example:{server.port}".encode() in server.requests[0].lower()


@pytest.mark.parametrize(("name", "trusted"), [("other.example", True), ("hook.example", False)])
def test_a_certificate_for_another_name_or_of_an_unknown_authority_gets_nothing(
    tmp_path: Path, name: str, trusted: bool
) -> None:
    authority = Authority(tmp_path)
    with HostileServer(answering("200 OK"), context=authority.server_context(name)) as server:
        target = receiver(
            f"https://hook.example:{server.port}/x", ca_file=authority.file if trusted else None, timeout_s=10.0
        )
        answer = WebhookReceiver(target, lookup=lambda _h, _p: ["127.0.0.1"]).send("m1", b"{}", now_s=1)
    assert answer.status is None
    assert "certificate: " in answer.detail
    assert server.requests == []


def test_an_address_that_refuses_leaves_the_try_to_the_next_one() -> None:
    with HostileServer(answering("204 No Content"), address="127.0.0.2") as server:
        hook = WebhookReceiver(
            receiver(f"http://hook.example:{server.port}/"), lookup=lambda _h, _p: ["127.0.0.1", "127.0.0.2"]
        )
        assert hook.send("m1", b"{}", now_s=1).status == 204


def test_only_the_networks_that_were_opened_are_reached() -> None:
    with HostileServer(answering("204 No Content")) as server:
        url = f"http://127.0.0.1:{server.port}/"
        elsewhere = (ipaddress.ip_network("10.0.0.0/8"),)
        own = (ipaddress.ip_network("127.0.0.0/30"),)
        refused = receiver(url, allow_private=False, allow_networks=elsewhere)
        assert WebhookReceiver(refused).send("m1", b"{}", now_s=1).refused
        assert server.requests == []
        allowed = receiver(url, allow_private=False, allow_networks=own)
        assert WebhookReceiver(allowed).send("m1", b"{}", now_s=1).status == 204


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with HostileServer(answering("200 OK")) as proxy, HostileServer(answering("204 No Content")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert send(server).status == 204
        assert proxy.requests == []


def test_each_try_has_its_own_timestamp_and_the_same_id() -> None:
    with HostileServer(answering("503 Busy", "Retry-After: 7")) as server:
        hook = WebhookReceiver(receiver(f"http://127.0.0.1:{server.port}/"))
        assert hook.send("m1", b"{}", now_s=100).retry_after == "7"
        hook.send("m1", b"{}", now_s=200)
    first, second = (dict(_headers(request)) for request in server.requests)
    assert (first["webhook-id"], second["webhook-id"]) == ("m1", "m1")
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("100", "200")
    assert first["webhook-signature"] != second["webhook-signature"]


def test_an_authority_file_that_is_none_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "ca.pem"
    bad.write_text("nothing")
    with pytest.raises(Fatal, match=r"ca\.pem: can't be read as PEM"):
        WebhookReceiver(receiver("https://h.example", ca_file=bad))


def test_a_day_of_tries_has_a_bounded_number() -> None:
    """The shortest pauses there can be still end at the ceiling: a day holds tens of tries, not thousands."""
    policy = DeliveryPolicy()
    spent_s, tries = 0.0, 0
    while spent_s < policy.give_up_after_s:
        spent_s += min(policy.pause_max_s, policy.pause_s * 2.0**tries) / 2
        tries += 1
    assert tries < 64


def _headers(request: bytes) -> list[tuple[str, str]]:
    lines = request.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return [
        (name.decode().lower(), value.decode().strip()) for name, _, value in (line.partition(b":") for line in lines)
    ]
