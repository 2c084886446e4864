"""EmbeddedProducer: the native accumulator with its options checked, its lingering, serdes and ends.

`send` is the native core's own method unless there are serdes. Invariant: what was sent is written after
linger_ms, by flush, by close, when the producer is dropped, or at the normal end of the process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from logcore.accumulator import RecordAccumulator
from logcore.processes import fork_count
from logcore.producers import ProducerIdentity
from pylog.config import check_name, producer_config
from pylog.embedded.exits import at_exit
from pylog.serdes import BytesSerde, Serde, serde_for

if TYPE_CHECKING:
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.engine import Headers, OnDelivery


class EmbeddedProducer(RecordAccumulator):
    """A producer of an EmbeddedEngine. Threads may share it; leaving its block flushes and closes it."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        producer_id: str | None,
        on_delivery: OnDelivery | None,
        options: Mapping[str, object],
    ) -> None:
        config = producer_config(options)
        if on_delivery is not None and not callable(on_delivery):
            raise TypeError(f"on_delivery is a function, not {type(on_delivery).__name__}")
        self._engine = engine
        self._linger_seconds = config.linger_ms / 1000
        self._identity = None
        if producer_id is not None:
            self._identity = ProducerIdentity(engine.path, check_name(producer_id, "producer"))
        super().__init__(
            engine,
            batch_bytes=config.batch_bytes,
            buffer_bytes=config.buffer_bytes,
            raise_when_full=config.when_full == "raise",
            durability=config.durability,
            identity=self._identity,
            on_delivery=on_delivery,
            on_buffering=self._expect_flush,
        )

    def _expect_flush(self) -> None:
        """Have the engine's thread flush in time: called where the buffer was empty and is not any more."""
        at_exit.add(self)
        self._engine._flush_after(self, self._linger_seconds)

    def close(self) -> None:
        """Write everything and end. A second call does nothing.

        Raises:
            PylogError: what could not be written is lost; a note on the error says how many records.
        """
        try:
            super().close()
        finally:
            self._engine._members.discard(self)
            if self._identity is not None:
                self._identity.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.closed and self.buffered_records and self._made_here():
            message = "a producer was dropped with records in it: close it"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
            self.close()

    def _made_here(self) -> bool:
        return bool(self._engine._forks == fork_count())


class SerdeProducer(EmbeddedProducer):
    """A producer that turns keys and values into bytes."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        producer_id: str | None,
        on_delivery: OnDelivery | None,
        options: Mapping[str, object],
        serialize_key: Callable[[Any], bytes],
        serialize_value: Callable[[Any], bytes],
    ) -> None:
        super().__init__(engine, producer_id, on_delivery, options)
        self._serialize_key = serialize_key
        self._serialize_value = serialize_value

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
        """Put one record into the buffer, its key and value through the serdes; None stays null.

        Raises:
            SerializationError: a serde refused; nothing was taken. And what RecordAccumulator.send raises.
        """
        super().send(
            topic,
            None if value is None else self._serialize_value(value),
            None if key is None else self._serialize_key(key),
            partition,
            headers,
            timestamp,
            sequence,
        )


def open_producer(
    engine: EmbeddedEngine,
    producer_id: str | None,
    on_delivery: OnDelivery | None,
    key_serde: str | Serde | None,
    value_serde: str | Serde | None,
    options: Mapping[str, object],
) -> EmbeddedProducer:
    """Return a producer with or without serdes."""
    key, value = serde_for(key_serde, "key_serde"), serde_for(value_serde, "value_serde")
    if key is None and value is None:
        return EmbeddedProducer(engine, producer_id, on_delivery, options)
    plain = BytesSerde()
    serialize_key, serialize_value = (key or plain).serialize, (value or plain).serialize
    return SerdeProducer(engine, producer_id, on_delivery, options, serialize_key, serialize_value)
