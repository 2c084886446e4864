"""What a kafka:// URL says: the brokers, and options of librdkafka.

Pure. `kafka://host:9092,other:9092?security.protocol=SSL&ssl.ca.location=/etc/ca.pem`. Invariant: an option
that pylog's own promises stand on cannot be given in a URL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from pylog.errors import ConfigError

SCHEME = "kafka"
DEFAULT_PORT = 9092
REQUEST_TIMEOUT_MS = 10_000
DELIVERY_TIMEOUT_MS = 120_000

OURS = {
    "bootstrap.servers": "name the brokers before the question mark",
    "metadata.broker.list": "name the brokers before the question mark",
    "group.id": "give group= to engine.consumer()",
    "group.instance.id": "give group_instance_id= to engine.consumer()",
    "enable.auto.commit": "give enable_auto_commit= to engine.consumer()",
    "auto.offset.reset": "give auto_offset_reset= to engine.consumer()",
    "linger.ms": "give linger_ms= to engine.producer()",
    "batch.size": "give batch_bytes= to engine.producer()",
    "transactional.id": "this release has no transactions on Kafka",
    "partitioner": "keys choose partitions by murmur2",
    "allow.auto.create.topics": "engine.create_topic() makes topics",
    "acks": "an append is acknowledged by all in-sync replicas",
    "request.required.acks": "an append is acknowledged by all in-sync replicas",
}
"""Options that are said elsewhere, and where."""


@dataclass(frozen=True)
class Address:
    """The brokers of a cluster and what librdkafka is told about reaching them."""

    brokers: str
    options: dict[str, str] = field(default_factory=dict, repr=False)  # may hold a password

    @property
    def request_seconds(self) -> float:
        """How long a question to the cluster may take."""
        return int(self.options.get("socket.timeout.ms", REQUEST_TIMEOUT_MS)) / 1000

    @property
    def delivery_ms(self) -> int:
        """How long a record may be under way before it counts as failed."""
        return int(self.options.get("delivery.timeout.ms", DELIVERY_TIMEOUT_MS))


def address_of(url: str) -> Address:
    """Return what the URL says.

    Raises:
        ConfigError: it is no kafka:// URL, names no broker or a bad port, or gives an option that is ours.
    """
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        raise ConfigError(f"expected kafka://host:port, not {parts.scheme}://")
    if "@" in parts.netloc:
        raise ConfigError("a kafka:// URL takes no user@: give ?sasl.username=...&sasl.password=...")
    if parts.path.strip("/") or parts.fragment:
        raise ConfigError(f"a kafka:// URL ends behind the brokers, but has {parts.path or parts.fragment!r}")
    brokers = ",".join(broker_of(given) for given in parts.netloc.split(","))
    options: dict[str, str] = {}
    try:
        given_options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ConfigError("the options of a kafka:// URL are name=value, joined by &") from None
    for name, value in given_options:
        if name in OURS:
            raise ConfigError(f"{name} cannot stand in a kafka:// URL: {OURS[name]}")
        if name in options:
            raise ConfigError(f"{name} stands twice in the kafka:// URL")
        if name in ("socket.timeout.ms", "delivery.timeout.ms") and not value.isdecimal():
            raise ConfigError(f"{name} is a whole number of milliseconds")
        options[name] = value
    return Address(brokers, options)


def broker_of(given: str) -> str:
    """Return host:port of `host`, `host:port` or `[IPv6]:port`."""
    parts = urlsplit(f"//{given}")
    try:
        port = parts.port
    except ValueError:
        raise ConfigError(f"{given!r} is no host:port: the port is a number up to 65535") from None
    if not parts.hostname:
        raise ConfigError("a kafka:// URL names a broker: kafka://host:port")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{DEFAULT_PORT if port is None else port}"
