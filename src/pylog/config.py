"""Options of topics, producers and consumers: names, defaults, limits, and the check of what a user gave.

Pure: no files. Kafka's keys with underscores, the unit last. Invariant: whatever these return is complete and
within its limits, and whatever they refuse is named in a ConfigError together with what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

from pylog.errors import ConfigError

Durability = Literal["os", "interval", "sync"]
Partitioner = Literal["murmur2", "xxh3"]
Compression = Literal["none", "zstd"]
Isolation = Literal["published", "synced"]
OffsetReset = Literal["earliest", "latest", "error"]
WhenFull = Literal["block", "raise"]
IfExists = Literal["compare", "raise"]
OnTruncate = Literal["resume", "raise"]
CleanupPolicy = Literal["delete", "compact"]
AssignorName = Literal["range", "round_robin", "cooperative_sticky", "weighted"]

MAX_PARTITIONS = 100_000
MOST_RETENTION_GROUPS = 64
MIN_SEGMENT_BYTES = 16 << 10
MAX_SEGMENT_BYTES = 1 << 30
MAX_RECORD_BYTES = 64 << 20
"""The most that max_record_bytes may say."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)


class TopicOptions(TypedDict, total=False):
    """What create_topic takes besides the shape of the topic; alter_topic takes ALTERABLE of them."""

    segment_bytes: int
    durability: Durability
    compression_type: Compression
    max_record_bytes: int
    sync_interval_ms: int
    max_unsynced_bytes: int
    cleanup_policy: CleanupPolicy
    retention_ms: int
    retention_bytes: int
    retention_groups: Iterable[str]
    retention_groups_max_bytes: int
    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: int
    delete_retention_ms: int
    fixed_partitions: bool


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The configuration that is stored with a topic and holds for all its writers."""

    segment_bytes: int = 64 << 20
    """The most bytes of one segment file."""
    durability: Durability = "interval"
    """What an append waits for, and who syncs: see README."""
    compression_type: Compression = "none"
    """How producers and append_many compress each batch."""
    max_record_bytes: int = 1 << 20
    """The most bytes of key, value and headers of one record."""
    sync_interval_ms: int = 100
    """With durability="interval": the age that an unsynced byte may reach."""
    max_unsynced_bytes: int = 64 << 20
    """With durability="interval": appends wait rather than leave more than this unsynced in a partition."""
    cleanup_policy: CleanupPolicy = "delete"
    """How records go: whole segments by age and size, or each but the last of its key ("compact")."""
    retention_ms: int = -1
    """With "delete": a segment goes when its newest timestamp is older; -1: never."""
    retention_bytes: int = -1
    """With "delete": the oldest segments of a partition go while the rest is at least so much; -1: never."""
    retention_groups: tuple[str, ...] = ()
    """With "delete": what these groups have not consumed stays, however old; without retention_ms and
    retention_bytes records go as soon as they have."""
    retention_groups_max_bytes: int = -1
    """While the rest of a partition is at least so much, its oldest segment waits for no group; -1: never."""
    min_cleanable_dirty_ratio: float = 0.5
    """With "compact": the part of the sealed segments that is not compacted yet from which it is worth it."""
    min_compaction_lag_ms: int = 0
    """With "compact": records are left alone until they are so old."""
    delete_retention_ms: int = 86_400_000
    """With "compact": how long a tombstone stays after what it deletes has gone."""
    fixed_partitions: bool = False
    """Whether create_partitions is refused: each key stays where it is, as the streams of an event store."""

    def as_dict(self) -> dict[str, object]:
        """Return all keys and their values."""
        return asdict(self)


class ProducerOptions(TypedDict, total=False):
    """What engine.producer takes by keyword."""

    linger_ms: float
    batch_bytes: int
    buffer_bytes: int
    when_full: WhenFull
    durability: Durability | None


@dataclass(frozen=True, slots=True)
class ProducerConfig:
    """How a producer collects records into batches."""

    linger_ms: float = 5.0
    """The longest that a record stays in the buffer before a flush begins by itself."""
    batch_bytes: int = 256 << 10
    """A batch that has grown to this is written at once."""
    buffer_bytes: int = 32 << 20
    """The most that all unwritten records of the producer may take."""
    when_full: WhenFull = "block"
    """What `send` does where the buffer is full: wait for room, or raise BufferFullError."""
    durability: Durability | None = None
    """What a flush waits for; None takes the topic's."""


class GroupOptions(TypedDict, total=False):
    """What engine.consumer takes for a member of a group."""

    assignor: AssignorName
    group_instance_id: str | None
    capacity: float
    session_timeout_ms: int
    max_poll_interval_ms: int
    rebalance_timeout_ms: int
    enable_auto_commit: bool
    auto_commit_interval_ms: int


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """How a consumer is a member of its group."""

    assignor: AssignorName = "cooperative_sticky"
    """Who gets which partition; all members of a group say the same."""
    group_instance_id: str | None = None
    """A static member: what it had waits for it for session_timeout_ms when it closes or dies."""
    capacity: float = 1.0
    """With assignor="weighted": its share of the work, relative to the others'."""
    session_timeout_ms: int = 10_000
    """A process that is stopped for so long loses its partitions; one that dies loses them at once."""
    max_poll_interval_ms: int = 300_000
    """A member that does not poll for so long loses its partitions, however alive its process is."""
    rebalance_timeout_ms: int = 60_000
    """How long a member may keep a partition that is another's next, to finish what it has read."""
    enable_auto_commit: bool = False
    """Commit by itself, at a poll and at close, what the application was given before."""
    auto_commit_interval_ms: int = 5_000


def check_name(name: object, what: str) -> str:
    """Return `name` if it may be the name of a topic, group or producer, since those become paths.

    Raises:
        TypeError: it is no str.
        ConfigError: it is empty, too long, has another character, or starts with "." or "-".
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} is a str, not {type(name).__name__}")
    if not NAME.fullmatch(name) or name[0] in ".-":
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise ConfigError(
            f"{shown!r} cannot name a {what}: "
            "a name is 1 to 200 of A-Z a-z 0-9 . _ - and starts with neither . nor -"
        )
    return name


def check_count(value: object, option: str, least: int, most: int) -> int:
    """Return `value` if it is an int (no bool) in [least, most]; TypeError or ConfigError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} is an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise ConfigError(f"{option}={value} is out of range: {least} to {most} are allowed")
    return value


def check_seconds(value: object, option: str) -> float | None:
    """Return a timeout in seconds: None waits for ever, 0 does not wait."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{option} is a number of seconds or None, not {type(value).__name__}")
    if not 0 <= value <= 1e9:
        raise ConfigError(f"{option}={value} is out of range: seconds from 0 up, or None to wait for ever")
    return float(value)


def check_choice(value: object, option: str, choices: Collection[str]) -> str:
    """Return `value` if it is one of `choices`; ConfigError with all of them otherwise."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{option}={value!r} is unknown: use one of {', '.join(map(repr, choices))}")
    return value


def check_known(given: Mapping[str, object], known: Collection[str], what: str) -> None:
    """Refuse options that do not exist, naming the nearest one that does."""
    for option in given:
        if option not in known:
            import difflib  # not needed by a program that makes no mistakes

            near = difflib.get_close_matches(option, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            there = ", ".join(sorted(known))
            raise ConfigError(f"{what} has no option {option!r}{hint} (there are: {there})")


def count_between(least: int, most: int) -> Callable[[object, str], object]:
    """Return a check for whole numbers in [least, most]."""
    return lambda value, option: check_count(value, option, least, most)


def one_of(choices: Any) -> Callable[[object, str], object]:
    """Return a check for the members of a Literal."""
    return lambda value, option: check_choice(value, option, get_args(choices))


def check_ratio(value: object, option: str) -> object:
    """Return `value` if it is a number from 0 to 1; TypeError or ConfigError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{option} is a number, not {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ConfigError(f"{option}={value} is out of range: 0 to 1 are allowed")
    return value


def check_bool(value: object, option: str) -> bool:
    """Return `value` if it is True or False; TypeError otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{option} is True or False, not {type(value).__name__}")
    return value


def check_groups(value: object, option: str) -> tuple[str, ...]:
    """Return the names of groups, sorted; TypeError or ConfigError where one is none, or too many."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"{option} is a list of names, not {type(value).__name__}")
    names = tuple(sorted({check_name(name, "group") for name in value}))
    if len(names) > MOST_RETENTION_GROUPS:
        raise ConfigError(f"{option} has {len(names)} names: at most {MOST_RETENTION_GROUPS} are possible")
    return names


LONGEST_MS = 100 * 366 * 86_400_000
"""A hundred years."""

TOPIC_CHECKS: dict[str, Callable[[object, str], object]] = {
    "segment_bytes": count_between(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES),
    "durability": one_of(Durability),
    "compression_type": one_of(Compression),
    "max_record_bytes": count_between(1, MAX_RECORD_BYTES),
    "sync_interval_ms": count_between(1, 3_600_000),
    "max_unsynced_bytes": count_between(64 << 10, 1 << 40),
    "cleanup_policy": one_of(CleanupPolicy),
    "retention_ms": count_between(-1, LONGEST_MS),
    "retention_bytes": count_between(-1, 1 << 60),
    "retention_groups": check_groups,
    "retention_groups_max_bytes": count_between(-1, 1 << 60),
    "min_cleanable_dirty_ratio": check_ratio,
    "min_compaction_lag_ms": count_between(0, LONGEST_MS),
    "delete_retention_ms": count_between(0, LONGEST_MS),
    "fixed_partitions": check_bool,
}
ALTERABLE = frozenset(TOPIC_CHECKS) - {"segment_bytes", "fixed_partitions"}
"""Options that alter_topic may change; those of the shape of a topic stay as it was created."""


def topic_config(given: Mapping[str, object], stored: TopicConfig | None = None) -> TopicConfig:
    """Return the stored (or default) configuration with the given options in their place.

    Raises:
        TypeError: an option has a value of the wrong type.
        ConfigError: an option is unknown, out of range, or does not fit another one.
    """
    check_known(given, TOPIC_CHECKS, "a topic")
    checked: dict[str, Any] = {option: TOPIC_CHECKS[option](value, option) for option, value in given.items()}
    config = replace(stored or TopicConfig(), **checked)
    room = config.segment_bytes - 8192
    if config.max_record_bytes > room:
        if "max_record_bytes" in given:
            raise ConfigError(
                f"max_record_bytes={config.max_record_bytes} does not fit "
                f"segment_bytes={config.segment_bytes}: at most {room} are possible"
            )
        config = replace(config, max_record_bytes=room)
    return config


def config_differences(stored: TopicConfig, given: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Return {option: (stored, given)} for the given options that are not stored so."""
    check_known(given, TOPIC_CHECKS, "a topic")
    found: dict[str, tuple[object, object]] = {}
    for option, value in given.items():
        checked = TOPIC_CHECKS[option](value, option)
        if getattr(stored, option) != checked:
            found[option] = (getattr(stored, option), checked)
    return found


def producer_config(given: Mapping[str, object]) -> ProducerConfig:
    """Return the complete options of a producer; TypeError or ConfigError as topic_config()."""
    check_known(given, [option.name for option in fields(ProducerConfig)], "a producer")
    config = ProducerConfig(**given)  # type: ignore[arg-type]  # each is checked right here
    linger = check_seconds(config.linger_ms, "linger_ms")
    if linger is None or linger > 3_600_000:
        raise ConfigError(f"linger_ms={config.linger_ms} is out of range: milliseconds from 0 to 3600000")
    check_count(config.batch_bytes, "batch_bytes", 1 << 10, 64 << 20)
    check_count(config.buffer_bytes, "buffer_bytes", 64 << 10, 1 << 40)
    check_choice(config.when_full, "when_full", get_args(WhenFull))
    if config.durability is not None:
        check_choice(config.durability, "durability", get_args(Durability))
    if config.buffer_bytes < config.batch_bytes:
        raise ConfigError(
            f"buffer_bytes={config.buffer_bytes} is less than batch_bytes={config.batch_bytes}: "
            "no batch would fit"
        )
    return config


def group_config(given: Mapping[str, object]) -> GroupConfig:
    """Return the complete options of a group member; TypeError or ConfigError as topic_config()."""
    check_known(given, [option.name for option in fields(GroupConfig)], "a consumer")
    config = GroupConfig(**given)  # type: ignore[arg-type]  # each is checked right here
    check_choice(config.assignor, "assignor", get_args(AssignorName))
    if config.group_instance_id is not None:
        check_name(config.group_instance_id, "group instance")
    if isinstance(config.capacity, bool) or not isinstance(config.capacity, int | float):
        raise TypeError(f"capacity is a number, not {type(config.capacity).__name__}")
    if not 1e-3 <= config.capacity <= 1e6:
        raise ConfigError(f"capacity={config.capacity} is out of range: 0.001 to 1000000")
    for option in ("session_timeout_ms", "max_poll_interval_ms", "rebalance_timeout_ms"):
        check_count(getattr(config, option), option, 100, 86_400_000)
    check_count(config.auto_commit_interval_ms, "auto_commit_interval_ms", 0, 86_400_000)
    if not isinstance(config.enable_auto_commit, bool):
        raise TypeError("enable_auto_commit is True or False")
    return config
