"""Signed as the standard says, guarded against the private network, retried as asked, never hammering."""

from __future__ import annotations

import base64
import ipaddress
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from monitor.delivery import Answer, DeliveryPolicy, Outcome, Receiver, WebhookReceiver, WebhookSink, decide, resolve
from monitor.delivery.guard import Target, is_public, reach
from monitor.delivery.outbox import retry_after_s
from monitor.delivery.signing import signed_headers, verify
from monitor.errors import Fatal, Rejectable, Retryable

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
OTHER = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba98").decode()


def test_the_reference_library_accepts_our_signature() -> None:
    now_s = int(datetime.now(UTC).timestamp())
    headers = signed_headers([SECRET], message_id="msg_1", timestamp_s=now_s, body=b'{"a":1}')
    assert Webhook(SECRET).verify('{"a":1}', headers) == {"a": 1}


def test_during_a_rotation_both_secrets_are_good() -> None:
    headers = signed_headers([OTHER, SECRET], message_id="m", timestamp_s=100, body=b"x")
    assert verify([SECRET], headers, b"x", now_s=100) == "m"
    assert verify([OTHER], headers, b"x", now_s=100) == "m"


@pytest.mark.parametrize(("body", "now_s", "secret"), [(b"y", 100, SECRET), (b"x", 500, SECRET), (b"x", 100, OTHER)])
def test_a_changed_body_an_old_try_and_another_secret_are_refused(body: bytes, now_s: int, secret: str) -> None:
    headers = signed_headers([SECRET], message_id="m", timestamp_s=100, body=b"x")
    assert verify([secret], headers, body, now_s=now_s) is None


def test_a_secret_that_is_none_is_named_without_being_shown() -> None:
    with pytest.raises(Fatal) as caught:
        signed_headers(["whsec_not base64!"], message_id="m", timestamp_s=1, body=b"")
    assert "not base64!" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "fec0::1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "240.0.0.1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:0:7f00:1",
        "64:ff9b:1::7f00:1",
        "2001::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "2001:db8::1",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:127.0.0.1",
        "100::1",
        "5f00::1",
        "3fff::1",
        "fe80::1%eth0",
        "no address",
    ],
)
def test_no_way_of_writing_a_private_address_passes(address: str) -> None:
    with pytest.raises(Rejectable, match="not a public address"):
        resolve("https://hook.example", allow_http=False, allow_private=False, lookup=lambda _h, _p: [address])


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111"])
def test_public_addresses_pass_and_are_the_ones_connected_to(address: str) -> None:
    target = resolve(
        "https://hook.example/a?b=1", allow_http=False, allow_private=False, lookup=lambda _h, _p: [address]
    )
    assert (target.addresses, target.host, target.port, target.path) == ((address,), "hook.example", 443, "/a?b=1")


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_as_itself(inner: ipaddress.IPv4Address) -> None:
    """Mapped and NAT64 addresses reach what they carry, and nothing that may not be reached plainly."""
    mapped = ipaddress.IPv6Address((0xFFFF << 32) | int(inner))
    nat64 = ipaddress.IPv6Address((0x64FF9B << 96) | int(inner))
    assert reach(mapped) is reach(inner)
    assert is_public(nat64) == is_public(inner)
    for prefix in (0x2002 << 112 | int(inner) << 80, 0x20010000 << 96 | (int(inner) ^ 0xFFFFFFFF), int(inner)):
        assert not is_public(ipaddress.IPv6Address(prefix)), "6to4, Teredo and compatible addresses lead anywhere"


@given(st.ip_addresses())
def test_we_are_never_laxer_than_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(address) and address not in ipaddress.ip_network(
        "64:ff9b::/96" if address.version == 6 else "0.0.0.0/32"
    ):
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "224.0.0.1", "::", "fe80::1"]
)
def test_what_no_receiver_is_at_stays_closed_whatever_is_allowed(address: str) -> None:
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    with pytest.raises(Rejectable, match="and never a receiver's"):
        resolve(
            "https://h.example",
            allow_http=True,
            allow_private=True,
            allow_networks=everything,
            lookup=lambda _h, _p: [address],
        )


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3"])
def test_a_network_that_was_opened_is_open_and_the_others_are_not(address: str) -> None:
    def at(network: str) -> Target:
        opened = (ipaddress.ip_network(network),)
        return resolve(
            "https://h.example",
            allow_http=False,
            allow_private=False,
            allow_networks=opened,
            lookup=lambda _h, _p: [address],
        )

    assert at("10.1.0.0/16").addresses == (address,)
    with pytest.raises(Rejectable, match="allow_networks or allow_private would allow it"):
        at("10.2.0.0/16")


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "[::1]", "localhost", "[::ffff:7f00:1]"]
)
def test_no_spelling_of_loopback_gets_through_the_system_s_resolver(host: str) -> None:
    with pytest.raises((Rejectable, Retryable)):
        resolve(f"https://{host}/", allow_http=False, allow_private=False)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    with pytest.raises(Rejectable):
        resolve(
            "https://h.example", allow_http=False, allow_private=False, lookup=lambda _h, _p: ["8.8.8.8", "10.0.0.1"]
        )


@pytest.mark.parametrize(
    "url",
    [
        "http://h.example",
        "ftp://h.example",
        "https://u:p@h.example",
        "https://@h.example",
        "https://",
        "https://h.example:99999",
        "https://h.example:x",
        "https://[::1",
        "https://h.example/a b",
        "https://h.example/é",
        "file:///etc/passwd",
        "",
    ],
)
def test_only_plain_https_is_let_out(url: str) -> None:
    with pytest.raises(Rejectable):
        resolve(url, allow_http=False, allow_private=False, lookup=lambda _h, _p: ["8.8.8.8"])


def test_a_name_without_an_address_is_tried_again() -> None:
    def nowhere(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(Retryable):
        resolve("https://h.example", allow_http=False, allow_private=False, lookup=nowhere)


def decided(answer: Answer, attempts: int = 1, first_ms: int = 0, now_ms: int = 0):
    return decide(
        answer,
        attempts=attempts,
        first_attempt_at_ms=first_ms,
        now_ms=now_ms,
        policy=DeliveryPolicy(),
        rng=random.Random(1),
    )


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.DELIVERED),
        (204, Outcome.DELIVERED),
        (301, Outcome.REDIRECTED),
        (404, Outcome.REFUSED_BY_RECEIVER),
        (410, Outcome.GONE),
        (429, Outcome.ASKED_TO_WAIT),
        (500, Outcome.SERVER_ERROR),
        (503, Outcome.ASKED_TO_WAIT),
        (None, Outcome.UNREACHABLE),
    ],
)
def test_each_answer_has_its_outcome(status: int | None, outcome: Outcome) -> None:
    decision = decided(Answer(status=status, detail=""))
    assert decision.outcome is outcome
    assert (decision.retry_at_ms is None) == (outcome in {Outcome.DELIVERED, Outcome.GONE})


@given(st.integers(1, 60))
def test_pauses_grow_to_a_ceiling_and_never_to_nothing(attempts: int) -> None:
    policy = DeliveryPolicy()
    wait_s = (decided(Answer(status=500, detail=""), attempts).retry_at_ms or 0) / 1000
    ceiling_s = min(policy.pause_max_s, policy.pause_s * 2.0 ** (attempts - 1))
    assert ceiling_s / 2 - 0.001 <= wait_s <= ceiling_s + 0.001


def test_retry_after_is_honoured_in_both_spellings_and_capped() -> None:
    assert retry_after_s("120", 0) == 120
    assert retry_after_s("Thu, 01 Jan 1970 00:02:00 GMT", 0) == 120
    for nonsense in ("soon", "Sun, 06 Nov 1994555555555 08:49:39 GMT", "Sun, 06 Nov 1994 08:49:39 +99999999999999"):
        assert retry_after_s(nonsense, 0) is None
    asked = decided(Answer(status=429, detail="", retry_after="9999999"))
    assert asked.retry_at_ms == DeliveryPolicy().retry_after_max_s * 1000


def test_after_a_day_it_is_given_up_by_name() -> None:
    assert decided(Answer(status=500, detail=""), now_ms=86_400_001).outcome is Outcome.EXPIRED


def test_a_signed_message_arrives_and_an_unsigned_one_does_not() -> None:
    got = []
    with WebhookSink(secrets=[SECRET], on_message=lambda key, body: got.append((key, body))) as sink:
        good = Receiver(name="good", url=sink.url, secrets=(SECRET,), allow_http=True, allow_private=True)
        wrong = Receiver(name="wrong", url=sink.url, secrets=(OTHER,), allow_http=True, allow_private=True)
        now_s = int(datetime.now(UTC).timestamp())
        assert WebhookReceiver(good).send("m1", b'{"type":"t"}', now_s=now_s).status == 204
        assert WebhookReceiver(wrong).send("m2", b'{"type":"t"}', now_s=now_s).status == 401
    assert got == [("m1", {"type": "t"})]


def test_secrets_and_urls_are_not_in_a_receiver_s_repr() -> None:
    receiver = Receiver(name="desk", url="https://h.example/token", secrets=(SECRET,))
    assert "token" not in repr(receiver)
    assert SECRET not in repr(receiver)
