"""open_queue(): what engine.queue() does. Makes the topic where there is none, and checks what was given."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Unpack

from pylog.config import check_count, check_name
from pylog.engine import Engine
from pylog.errors import ConfigError, PylogError, ReadOnlyError, UnknownTopicError, UnsupportedError
from pylog.filters import sieve_of
from pylog.queue_options import QueueOptions, queue_config
from pylog.queues.options import DEFAULT_RETRY, QueueArguments
from pylog.queues.queue import Queue
from pylog.retries import CircuitBreaker, Retry

STORED = tuple(QueueOptions.__annotations__)


def open_queue(engine: Engine, name: str, **given: Unpack[QueueArguments]) -> Queue:
    """Open a work queue over a topic of its name, or over the topic that is given.

    Options that are stored with the queue and left out are what is stored; given otherwise they raise.

    Raises:
        TopicConfigError: a stored option was given another value; `differences` has both.
        UnsupportedError: the engine has no queues.
        TypeError, ConfigError, ReadOnlyError, ClosedError
    """
    if "queues" not in engine.capabilities:
        raise UnsupportedError("this engine has no queues: see engine.capabilities")
    arguments: dict[str, Any] = dict(given)
    stored = {option: arguments.pop(option) for option in STORED if option in arguments}
    known = set(QueueArguments.__annotations__)
    for option in arguments:
        if option not in known:
            queue_config({option: None})  # raises, naming the nearest that there is
    check_name(name, "queue")
    topic = arguments.pop("topic", None)
    partitions = check_count(arguments.pop("partitions", 1), "partitions", 1, 1 << 16)
    durability = arguments.pop("durability", None)
    dead_letter = arguments.pop("dead_letter", None)
    if dead_letter is not None:
        check_name(dead_letter, "topic")
    for option, kind in (("retry", Retry), ("breaker", CircuitBreaker)):
        if arguments.get(option) is not None and not isinstance(arguments[option], kind):
            raise TypeError(f"{option}= is a {kind.__name__}, not {type(arguments[option]).__name__}")
    sieve = sieve_of(arguments.pop("filter", None), arguments.pop("on_rejected", None))
    notes = None if dead_letter is None else {"dead_letter": dead_letter}
    if name not in engine.list_queues():  # else it was checked when it was stored
        check_dead_letter(engine, dead_letter or default_dead_letter(name), topic or name)
    try:
        source = engine.queue_source(name, topic, notes=notes, **stored)
    except UnknownTopicError as unknown:
        if topic is not None or name in engine.list_topics():
            raise  # only a topic of the queue's own name is made
        levels = unknown.priorities or queue_config(stored).priorities
        durable = {} if durability is None else {"durability": durability}
        try:
            engine.create_topic(name, partitions=partitions * levels, **durable)
        except ReadOnlyError:
            raise unknown from None
        source = engine.queue_source(name, notes=notes, **stored)
    try:
        graveyard = source.notes.get("dead_letter", default_dead_letter(name))
        if graveyard == source.topic:  # made by queue_source(), which does not know
            raise ConfigError(f"{graveyard!r} is the queue's own topic: nothing could be dead")
        arguments["retry"] = arguments.get("retry") or DEFAULT_RETRY
        return Queue(engine, source, dead_letter=graveyard, sieve=sieve, **arguments)
    except BaseException:
        source.close()
        raise


def default_dead_letter(queue: str) -> str:
    """Return where the dead letters of a queue are that was not told."""
    return f"{queue}.dlq"


def check_dead_letter(engine: Engine, dead_letter: str, topic: str) -> None:
    """Refuse a dead-letter topic from which records would come back to the queue's own by dying again."""
    try:
        check_name(dead_letter, "topic")
    except ConfigError:
        raise ConfigError(f"{dead_letter!r} is too long to name a topic: give dead_letter=") from None
    graves = {dead_letter}
    while topic not in graves:
        found = set(graves)
        for name in engine.list_queues():
            # one that is damaged, or whose topic was deleted, leads nowhere
            with suppress(PylogError), engine.queue_source(name) as other:
                if other.topic in graves:
                    found.add(other.notes.get("dead_letter", default_dead_letter(name)))
        if found == graves:
            return
        graves = found
    raise ConfigError(f"dead_letter={dead_letter!r} leads back to {topic!r}: nothing could be dead")
