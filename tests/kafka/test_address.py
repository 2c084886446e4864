"""What a kafka:// URL may say."""

from __future__ import annotations

import pytest

import pylog
from pylog.kafka.address import address_of


@pytest.mark.parametrize(
    ("url", "brokers"),
    [
        ("kafka://host", "host:9092"),
        ("kafka://host:1234", "host:1234"),
        ("kafka://a:1,b,c:3/", "a:1,b:9092,c:3"),
        ("kafka://[::1]:1234", "[::1]:1234"),
    ],
)
def test_brokers_are_named(url: str, brokers: str) -> None:
    assert address_of(url).brokers == brokers


def test_options_are_for_librdkafka() -> None:
    found = address_of(
        "kafka://h?security.protocol=SSL&ssl.ca.location=%2Fetc%2Fca.pem&socket.timeout.ms=500"
    )
    assert found.options["ssl.ca.location"] == "/etc/ca.pem"
    assert found.request_seconds == 0.5


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(address_of("kafka://h?sasl.password=secret"))


@pytest.mark.parametrize(
    "url",
    [
        "kafka://",
        "kafka://:9092",
        "kafka://h:port",
        "kafka://h:70000",
        "kafka://h/topic",
        "kafka://user:password@h",
        "kafka://h?acks=0",
        "kafka://h?group.id=g",
        "kafka://h?linger.ms=1",
        "kafka://h?a=1&a=2",
        "kafka://h?novalue",
        "kafka://h?socket.timeout.ms=soon",
    ],
)
def test_what_an_url_cannot_say_is_refused(url: str) -> None:
    with pytest.raises(pylog.ConfigError):
        pylog.open(url)


def test_an_option_that_librdkafka_does_not_know_is_named() -> None:
    with pytest.raises(pylog.ConfigError, match=r"no\.such\.option"):
        pylog.open("kafka://h?no.such.option=1")
