"""KafkaProducer: librdkafka's buffer and batches, with what a Producer promises about failures.

Reports are served within send, flush and close. Invariant: a record that was sent is in the log, or it is
kept, and the next call says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from pylog.config import ProducerConfig, check_seconds, producer_config
from pylog.errors import BufferFullError, ClosedError, PylogError, RequestTimeoutError, UnsupportedError
from pylog.kafka.deliveries import Deliveries
from pylog.kafka.failures import failure_of
from pylog.kafka.record import check_bytes, header_list, milliseconds_of
from pylog.records import RecordId
from pylog.serdes import Serde, serde_for

if TYPE_CHECKING:
    from pylog.engine import Headers, OnDelivery
    from pylog.kafka.engine import KafkaEngine

MOST_LINGER_MS = 900_000
"""The most that librdkafka takes."""
FULL_SECONDS = 0.1
FOR_EVER = 1e9

Sent = tuple[str, bytes | None, bytes | None, int, list[tuple[str, bytes | None]], int]
"""(topic, value, key, partition or -1, headers, milliseconds)."""


def options_of(config: ProducerConfig, delivery_ms: int) -> dict[str, Any]:
    """Return the options of a producer under librdkafka's names."""
    return {
        # a record that lingers is under way: sent earlier than linger_ms allows rather than too late
        "linger.ms": min(config.linger_ms, MOST_LINGER_MS, delivery_ms // 2),
        "batch.size": config.batch_bytes,
        "batch.num.messages": 1_000_000,
        "queue.buffering.max.kbytes": min(config.buffer_bytes >> 10, (1 << 31) - 1),
        "queue.buffering.max.messages": 0,
    }


class KafkaProducer:
    """A producer of a KafkaEngine. Threads may share it; leaving its block flushes and closes it."""

    def __init__(
        self,
        engine: KafkaEngine,
        on_delivery: OnDelivery | None,
        key_serde: str | Serde | None,
        value_serde: str | Serde | None,
        options: Mapping[str, object],
    ) -> None:
        config = producer_config(options)
        if config.durability is not None:
            raise UnsupportedError("on Kafka a flush always waits for all in-sync replicas: no durability=")
        if on_delivery is not None and not callable(on_delivery):
            raise TypeError(f"on_delivery is a function, not {type(on_delivery).__name__}")
        self._serialize_key = serializer(serde_for(key_serde, "key_serde"))
        self._serialize_value = serializer(serde_for(value_serde, "value_serde"))
        self._engine = engine
        self._config = config
        self._on_delivery = on_delivery
        self._lock = threading.Lock()
        # under the lock: what reports said, and what failed and is sent again by the next flush
        self._delivered: list[RecordId] = []
        self._kept: list[Sent] = []
        self._kept_bytes = 0
        self._failure: PylogError | None = None
        self._untold: list[PylogError] = []
        self._counts = {"sent_records": 0, "delivered_records": 0, "failed_records": 0}
        self._closed = False
        self._client = Deliveries(engine._producing(options_of(config, engine._address.delivery_ms)))

    # ---- records in -------------------------------------------------------------------------------------

    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        sequence: int | None = None,
    ) -> None:
        """Put one record into the buffer: no acknowledgement. A failed flush raises from the next call.

        Raises:
            UnsupportedError: a sequence, or a timestamp that is not in whole milliseconds.
            UnknownTopicError, TypeError, ConfigError, SerializationError, RecordTooLargeError: nothing was
                taken.
            BufferFullError: when_full is "raise", or so much failed that nothing more can be kept.
            ClosedError
        """
        self._check()
        if sequence is not None:
            raise UnsupportedError("on Kafka a producer takes no sequence: it resumes nothing")
        value = None if value is None else self._serialize_value(value)
        key = None if key is None else self._serialize_key(key)
        place = -1 if partition is None else self._engine._topics.check_partition(topic, partition)
        if partition is None:
            self._engine._topics.partitions_of(topic)
        sent = (
            topic, check_bytes(value, "value"), check_bytes(key, "key"), place,
            header_list(headers), milliseconds_of(timestamp),
        )  # fmt: skip
        self._client.serve()
        self._tell()
        self._raise_failure()
        if self._kept_bytes > self._config.buffer_bytes:
            raise BufferFullError(f"{len(self._kept)} records failed and are kept: flush or close")
        self._produce(sent)
        self._counts["sent_records"] += 1

    def _produce(self, sent: Sent) -> None:
        report = partial(self._report, sent)
        while True:
            try:
                self._client.produce(*sent, report)
                return
            except BufferError as error:
                if self._config.when_full == "raise":
                    raise BufferFullError(f"buffer_bytes={self._config.buffer_bytes} are used up") from error
            # a flush does not wait for linger_ms, which may be long
            self._client.flush(FULL_SECONDS)
            self._tell()

    def _report(self, sent: Sent, error: Any, message: Any) -> None:
        with self._lock:
            if error is None:
                self._counts["delivered_records"] += 1
                self._delivered.append(RecordId(sent[0], message.partition(), message.offset()))
                return
            self._counts["failed_records"] += 1
            self._kept.append(sent)
            self._kept_bytes += len(sent[1] or b"") + len(sent[2] or b"")
            failure = failure_of(error, f"delivering to {sent[0]!r}")
            if self._failure is None:
                self._failure = failure
                self._untold.append(failure)

    def _tell(self) -> None:
        """Report what was delivered or failed since, outside of everything that others wait for."""
        with self._lock:
            delivered, self._delivered = self._delivered, []
            untold, self._untold = self._untold, []
        if self._on_delivery is not None:
            if delivered:
                self._on_delivery(delivered, None)
            for failure in untold:
                self._on_delivery([], failure)

    def _raise_failure(self) -> None:
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # ---- the rest ---------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> None:
        """Write all that was sent before; raises what went wrong and keeps the records.

        What is kept is sent again by the next flush, behind what was delivered meanwhile.

        Args:
            timeout: Seconds; None waits as long as a delivery may take: 2 minutes, or what the URL says.

        Raises:
            RequestTimeoutError: not all is acknowledged; what is not stays in the buffer.
            PylogError: what Kafka refused.
        """
        self._check()
        self._flush(check_seconds(timeout, "timeout"))

    def _flush(self, timeout: float | None) -> None:
        with self._lock:
            again, self._kept, self._kept_bytes, self._failure = self._kept, [], 0, None
        for n, sent in enumerate(again):
            try:
                self._produce(sent)
            except BaseException:
                with self._lock:
                    self._kept[:0] = again[n:]
                    self._kept_bytes += sum(len(s[1] or b"") + len(s[2] or b"") for s in again[n:])
                raise
        out = self._client.flush(FOR_EVER if timeout is None else timeout)
        self._tell()
        self._raise_failure()
        if out:
            raise RequestTimeoutError(f"{out} records are not acknowledged after {timeout} s, and are kept")

    def last_sequence(self, topic: str, partition: int) -> NoReturn:
        """Raise UnsupportedError: Kafka keeps the sequences of its producers to itself."""
        raise UnsupportedError("on Kafka a producer cannot ask for its last sequence")

    def resume_from(self, topic: str) -> NoReturn:
        """Raise UnsupportedError: Kafka keeps the sequences of its producers to itself."""
        raise UnsupportedError("on Kafka a producer cannot resume: see engine.capabilities")

    def metrics(self) -> dict[str, int]:
        """Return sent, delivered and failed records since it was opened, and how many failed are kept."""
        return {**self._counts, "kept_records": len(self._kept)}

    def close(self) -> None:
        """Flush and end. A second call does nothing.

        Raises:
            PylogError: what could not be written is lost; a note on the error says how many records.
        """
        if self._closed:
            return
        self._engine._check_process()
        self._closed = True
        self._engine._members.discard(self)
        try:
            self._flush(None)
        except PylogError as error:
            error.add_note(f"{len(self._kept)} records were not written and are lost")
            raise
        finally:
            self._client.drop()

    def _check(self) -> None:
        if self._closed:
            raise ClosedError("the producer was closed")
        self._engine._check_process()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serializer(serde: Serde | None) -> Callable[[Any], Any]:
    """Return what turns a key or value into bytes."""
    return (lambda given: given) if serde is None else serde.serialize
