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

import msgspec
import xxhash

from pylog.clock import Clock, Deadline, SystemClock
from pylog.config import check_count
from pylog.correlation import correlated
from pylog.errors import (
    ConfigError,
    RequestTimeoutError,
    SerializationError,
    UnsupportedError,
    VersionConflictError,
)
from pylog.eventsourcing.aggregates import Aggregate, Appended, stream_of
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
        self._loaded: dict[str, Aggregate] = {}

    def load(self, kind: type[A], aggregate_id: str) -> A:
        """Return an aggregate as it is now, the same one each time.

        Raises:
            ConfigError: its stream was loaded as an aggregate of another class.
            And what store.load() raises.
        """
        stream = stream_of(kind, aggregate_id)
        found = self._loaded.get(stream)
        if found is None:
            found = self._loaded[stream] = self.store.load(kind, aggregate_id)
        if not isinstance(found, kind):
            raise ConfigError(f"{stream} was loaded as {type(found).__name__}, not as {kind.__name__}")
        return found

    def changed(self) -> list[Aggregate]:
        """Return those that recorded something."""
        return [aggregate for aggregate in self._loaded.values() if aggregate._stands.pending]


class Note(NamedTuple):
    """What is kept of a command that was handled, under its idempotency key."""

    key: str
    at: int
    """Where the key's last note stands, -1: nowhere."""
    command: str
    result: Any

    def encode(self, versions: dict[str, int]) -> bytes:
        """Return it as JSON, with the version of each stream after the command."""
        note = {"command": self.command, "result": self.result, "versions": versions}
        try:
            return json.dumps(note).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(f"what the handler returned cannot be kept as JSON: {error}") from None


class CommandBus:
    """Hands commands to their handlers and stores what comes of it. Threads may share it.

    Args:
        attempts: How often a handler is called for one command while others are first.
    """

    def __init__(self, store: EventStore, *, attempts: int = 10, clock: Clock | None = None) -> None:
        if "transactions" not in store.engine.capabilities:
            raise UnsupportedError("a command bus needs transactions, which this engine lacks")
        self.store, self.attempts = store, check_count(attempts, "attempts", 1, 1 << 30)
        self.clock = clock or SystemClock()
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
                returned, also after a crash. What the handler returns must then be JSON. It is no name of
                another command.
            metadata: What to keep with each event.

        Raises:
            ConfigError: nobody handles such commands; the key named a command of another type or with
                other fields.
            VersionConflictError: others were first each time.
            And whatever the handler raises: nothing was stored.
        """
        handler = self._handlers.get(type(command))
        if handler is None:
            raise ConfigError(f"nobody handles {type(command).__name__}")
        with correlated(causation_id=idempotency_key or uuid.uuid4().hex):
            lost: Exception | None = None
            for _ in range(self.attempts):
                receipt, at = self._known(command, idempotency_key)
                if receipt is not None:
                    return receipt
                work = Work(self.store)
                try:
                    result = handler(command, work)
                except Exception as error:
                    # what it saw may be what this command came to elsewhere
                    if self._refused(idempotency_key, at):
                        raise
                    lost = error
                    continue
                note = None if idempotency_key is None else Note(idempotency_key, at, told(command), result)
                try:
                    return self._store(work, result, note, metadata)
                except VersionConflictError as error:
                    lost = error
            receipt, _ = self._known(command, idempotency_key)
            if receipt is None:
                assert lost is not None
                raise lost
            return receipt

    def _store(self, work: Work, result: Any, note: Note | None, metadata: Metadata | None) -> Receipt:
        changed = work.changed()
        if note is None and len(changed) <= 1:
            saved = [self.store.save(aggregate, metadata=metadata) for aggregate in changed]
            return Receipt(tuple(done.record_id for done in saved if done is not None), result)
        transaction = self.store.engine.transaction()
        pending = [len(aggregate._stands.pending) for aggregate in changed]
        done = [self.store.save_in(transaction, aggregate, metadata=metadata) for aggregate in changed]
        if note is not None:
            value = note.encode({one.stream: one.version for one in done})
            transaction.append(self._topic, value, note.key.encode(), guard=note.at)
        places: list[RecordId] = transaction.commit()
        tokens, at = [], 0
        for aggregate, count, appended in zip(changed, pending, done, strict=True):
            at += count
            tokens.append(places[at - 1])
            self.store.saved(aggregate, Appended(appended.stream, appended.version, places[at - 1]))
        return Receipt(tuple(tokens), result)

    # ---- commands that were handled ---------------------------------------------------------------------

    def _known(self, command: Any, key: str | None) -> tuple[Receipt | None, int]:
        """Return the receipt of a command that was handled, None where none was; and where the key's last
        note stands, -1: nowhere."""
        if key is None:
            return None, -1
        engine = self.store.engine
        if not self._noting:
            engine.create_topic(self._topic, cleanup_policy="delete", fixed_partitions=True)
            self._noting = True
        found = engine.read_key(self._topic, key.encode(), most=1, backward=True)
        if not found or found[0].value is None:
            return None, found[0].offset if found else -1
        note = json.loads(found[0].value)
        if note["command"] != told(command):
            raise ConfigError(f"the idempotency key {key!r} named another command than this one")
        return Receipt(self._tokens(note["versions"]), note["result"], True), found[0].offset

    def _refused(self, key: str | None, at: int) -> bool:
        """Note that a command was refused, as it was told; False where it was handled meanwhile.

        The append takes the lock that a transaction which handles it holds until its note is to be seen.
        """
        if key is None:
            return True
        try:
            self.store.engine.append(self._topic, None, key.encode(), guard=at)
        except VersionConflictError:
            return False
        return True

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


def told(command: Any) -> str:
    """Return what tells a command from another: its type, and a hash of its fields where JSON has them."""
    name = type(command).__name__
    try:
        fields = msgspec.json.encode(command, order="sorted")
    except (TypeError, ValueError, RecursionError):
        return name
    return f"{name} {xxhash.xxh3_64_hexdigest(fields)}"
