"""CommandBus: each command has one handler, which decides on aggregates; what they record is stored together.

Reading is somebody else's: read models follow the store and are waited for by what send() returns. Invariant:
a command with an idempotency key has its effect once, whoever repeats it and whatever dies in between.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pylog.clock import Clock, Deadline, SystemClock
from pylog.correlation import correlated
from pylog.errors import (
    ConfigError,
    RequestTimeoutError,
    SerializationError,
    UnsupportedError,
    VersionConflictError,
)
from pylog.eventsourcing.aggregates import Aggregate, Appended, standing_of
from pylog.eventsourcing.events import Metadata
from pylog.eventsourcing.store import EventStore
from pylog.records import RecordId

A = TypeVar("A", bound=Aggregate)
Handler = Callable[[Any, "Work"], Any]
VISIBLE_WITHIN = 10.0
"""Seconds for a committed transaction to be seen."""


class Receipt(NamedTuple):
    """What became of a command: also what a read model's wait_for() takes."""

    tokens: tuple[RecordId, ...]
    """Of the last event of each aggregate that changed."""
    result: Any
    """What the handler returned."""
    duplicate: bool = False
    """True where a command with this idempotency key was handled before; the rest is that one's."""


class Work:
    """The aggregates that one command is about. A handler loads them here and lets them decide."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self._loaded: dict[tuple[type[Aggregate], str], Aggregate] = {}

    def load(self, kind: type[A], aggregate_id: str) -> A:
        """Return an aggregate as it is now, the same one each time."""
        found = self._loaded.get((kind, aggregate_id))
        if found is None:
            found = self._loaded[kind, aggregate_id] = self.store.load(kind, aggregate_id)
        assert isinstance(found, kind)
        return found

    def changed(self) -> list[Aggregate]:
        """Return those that recorded something."""
        return [aggregate for aggregate in self._loaded.values() if standing_of(aggregate).pending]


class CommandBus:
    """Hands commands to their handlers and stores what comes of it. Threads may share it.

    Args:
        attempts: How often a handler is called for one command while others are first.
    """

    def __init__(self, store: EventStore, *, attempts: int = 10, clock: Clock | None = None) -> None:
        if "transactions" not in store.engine.capabilities:
            raise UnsupportedError("a command bus needs transactions, which this engine lacks")
        self.store, self.attempts, self.clock = store, attempts, clock or SystemClock()
        self._handlers: dict[type, Handler] = {}
        self._topic = f"{store.name}.commands"
        self._noting = False

    def handler(self, command: type) -> Callable[[Handler], Handler]:
        """Decorate the one handler of a type of command: a function of the command and a Work."""

        def take(handler: Handler) -> Handler:
            if self._handlers.setdefault(command, handler) is not handler:
                raise ConfigError(f"{command.__name__} has a handler already")
            return handler

        return take

    def send(
        self, command: Any, *, idempotency_key: str | None = None, metadata: Metadata | None = None
    ) -> Receipt:
        """Handle a command now, and return when what it came to is stored.

        Args:
            idempotency_key: Names the command: sent again, it is not handled again, and the first receipt is
                returned, also after a crash. What the handler returns must then be JSON.
            metadata: What to keep with each event.

        Raises:
            ConfigError: nobody handles such commands.
            VersionConflictError: others were first each time.
            And whatever the handler raises: nothing was stored.
        """
        handler = self._handlers.get(type(command))
        if handler is None:
            raise ConfigError(f"nobody handles {type(command).__name__}")
        with correlated(causation_id=idempotency_key or uuid.uuid4().hex):
            for attempt in range(1, self.attempts + 1):
                if idempotency_key is not None and (known := self._receipt(idempotency_key)) is not None:
                    return known
                work = Work(self.store)
                result = handler(command, work)
                try:
                    return self._store(work, result, idempotency_key, metadata)
                except VersionConflictError:
                    if attempt == self.attempts:
                        raise
        raise ConfigError(f"attempts={self.attempts}: a command is handled once at least")

    def _store(self, work: Work, result: Any, key: str | None, metadata: Metadata | None) -> Receipt:
        changed = work.changed()
        if key is None and len(changed) <= 1:
            saved = [self.store.save(aggregate, metadata=metadata) for aggregate in changed]
            return Receipt(tuple(done.record_id for done in saved if done is not None), result)
        transaction = self.store.engine.transaction()
        pending = [len(standing_of(aggregate).pending) for aggregate in changed]
        done = [self.store.save_in(transaction, aggregate, metadata=metadata) for aggregate in changed]
        if key is not None:
            self._note(transaction, key, result, {one.stream: one.version for one in done})
        places: list[RecordId] = transaction.commit()
        tokens, at = [], 0
        for aggregate, count, appended in zip(changed, pending, done, strict=True):
            at += count
            tokens.append(places[at - 1])
            self.store.saved(aggregate, Appended(appended.stream, appended.version, places[at - 1]))
        return Receipt(tuple(tokens), result)

    # ---- commands that were handled ---------------------------------------------------------------------

    def _note(self, transaction: Any, key: str, result: Any, versions: dict[str, int]) -> None:
        """Have the transaction note that the command was handled, unless somebody else does."""
        try:
            value = json.dumps({"result": result, "versions": versions}).encode()
        except (TypeError, ValueError) as error:
            raise SerializationError(f"what the handler returned cannot be kept as JSON: {error}") from None
        transaction.append(self._topic, value, key.encode(), guard=-1)

    def _receipt(self, key: str) -> Receipt | None:
        """Return the receipt of a command that was handled, None where none was."""
        engine = self.store.engine
        if not self._noting:
            engine.create_topic(self._topic, cleanup_policy="delete", fixed_partitions=True)
            self._noting = True
        found = engine.read_key(self._topic, key.encode(), most=1)
        if not found:
            return None
        note = json.loads(found[0].value or b"{}")
        return Receipt(self._tokens(note["versions"]), note["result"], True)

    def _tokens(self, versions: dict[str, int]) -> tuple[RecordId, ...]:
        """Return where the last event of each stream stands, once the transaction is visible there."""
        tokens = []
        for stream, version in versions.items():
            deadline = Deadline(self.clock, VISIBLE_WITHIN)
            while not (found := list(self.store.read(stream, first=version, last=version))):
                if deadline.passed():
                    raise RequestTimeoutError(f"{stream} does not show the command's events yet")
                # whoever committed it may be dead; asked for an offset, the engine finishes what those left
                with self.store.engine.consumer(group=self._topic) as consumer:
                    consumer.committed((self._topic, 0))
                time.sleep(deadline.left(0.001))
            tokens.append(found[0].record_id)
        return tuple(tokens)
