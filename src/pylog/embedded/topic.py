"""Topics as they lie on disk: topic.json, and making, changing and removing the directory that has it.

Not the records in them. Invariant: under its name a topic's directory always holds a whole topic.json; what a
killed process leaves behind begins with a dot, which no topic's name does.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from logcore.hashing import xxh3_64
from logcore.whole_files import NAME, clear_error, locked_directory, open_plain, place_file
from pylog.config import (
    ALTERABLE,
    MAX_PARTITIONS,
    TopicConfig,
    check_choice,
    check_count,
    check_known,
    check_name,
    config_differences,
    topic_config,
)
from pylog.embedded.directory import check_real_directory
from pylog.errors import (
    ConfigError,
    CorruptionError,
    FormatError,
    PylogError,
    TopicConfigError,
    TopicExistsError,
    UnknownTopicError,
)
from pylog.records import TopicDescription

PARTITIONERS = ("murmur2", "xxh3")
LARGEST_TOPIC_FILE = 1 << 20
HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)


class TopicDirectories:
    """The directory `topics` of a data directory."""

    def __init__(self, root: str) -> None:
        self.path = f"{root}/topics"

    def names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        try:
            with os.scandir(self.path) as entries:
                found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise clear_error(error, self.path) from None
        return sorted(name for name in found if NAME.fullmatch(name))

    def changed(self) -> int:
        """Return a number that is another one once a topic was made or deleted."""
        try:
            return Path(self.path).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def directory_of(self, name: str) -> str:
        """Return the directory of a topic, whether it is there or not."""
        return f"{self.path}/{name}"

    def describe(self, name: str) -> TopicDescription:
        """Return what topic.json says.

        Raises:
            TypeError, ConfigError: that cannot name a topic.
            UnknownTopicError: there is none of that name.
            FormatError: it was written by a newer release, or is a symbolic link.
            CorruptionError: it is damaged.
        """
        check_name(name, "topic")
        directory = self.directory_of(name)
        check_real_directory(directory)
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UnknownTopicError(f"there is no topic {name!r}: create it first") from None
        except OSError as error:
            raise clear_error(error, directory) from None
        try:
            return self._read(fd, name, directory)
        finally:
            os.close(fd)

    def _read(self, fd: int, name: str, directory: str) -> TopicDescription:
        path = f"{directory}/topic.json"
        try:
            file = open_plain(fd, "topic.json", path, os.O_RDONLY)
        except FileNotFoundError:
            raise CorruptionError(f"{path} is missing: the topic's shape cannot be told", path=path) from None
        try:
            content = os.read(file, LARGEST_TOPIC_FILE)
        finally:
            os.close(file)
        return parse_topic(content, name, path)

    def create(
        self,
        name: str,
        partitions: int | None,
        partitioner: str | None,
        given: Mapping[str, object],
        if_exists: str,
    ) -> TopicDescription:
        """Make a topic, or return the one that is there where it agrees with what is given.

        Raises:
            TypeError, ConfigError: a bad name or option.
            TopicExistsError: it is there, and if_exists is "raise".
            TopicConfigError: it is there with another shape or configuration.
        """
        check_name(name, "topic")
        check_choice(if_exists, "if_exists", ("compare", "raise"))
        if partitions is not None:
            check_count(partitions, "partitions", 1, MAX_PARTITIONS)
        if partitioner is not None:
            check_choice(partitioner, "partitioner", PARTITIONERS)
        config = topic_config(given)
        with locked_directory(self.path) as topics:
            with suppress(UnknownTopicError):
                found = self.describe(name)
                if if_exists == "raise":
                    raise TopicExistsError(f"there is a topic {name!r} already", topic=name)
                compare(found, partitions, partitioner, given)
                return found
            made = TopicDescription(name, uuid.uuid4().hex, partitions or 1, partitioner or "murmur2", config)
            self._place(topics, made)
        return made

    def _place(self, topics: int, made: TopicDescription) -> None:
        """Make the directory under a name of no topic, complete and on disk, then give it its own."""
        unfinished = f".{made.name}.{made.uuid[:16]}.tmp"
        path = self.directory_of(made.name)
        try:
            os.mkdir(unfinished, 0o700, dir_fd=topics)
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(unfinished, flags, dir_fd=topics)
                try:
                    place_file(fd, "topic.json", topic_bytes(made), f"{path}/topic.json")
                finally:
                    os.close(fd)
                os.rename(unfinished, made.name, src_dir_fd=topics, dst_dir_fd=topics)
            except BaseException:
                shutil.rmtree(f"{self.path}/{unfinished}", ignore_errors=True)
                raise
            os.fsync(topics)
        except PylogError:
            raise
        except OSError as error:
            raise clear_error(error, path) from None

    def alter(self, name: str, given: Mapping[str, object]) -> TopicDescription:
        """Change the configuration of a topic.

        Raises:
            UnknownTopicError: there is none of that name.
            TypeError, ConfigError: an option is unknown, out of range, or fixed when the topic is made.
        """
        check_name(name, "topic")
        if "partitions" in given or "partitioner" in given or "segment_bytes" in given:
            raise ConfigError(
                "partitioner and segment_bytes are fixed when a topic is made, and partitions are added by "
                "create_partitions()"
            )
        if "fixed_partitions" in given:
            raise ConfigError("fixed_partitions is fixed when a topic is made")
        check_known(given, ALTERABLE, "alter_topic")
        with locked_directory(self.path):
            found = self.describe(name)
            changed = replace(found, config=topic_config(given, found.config))
            self._replace(found, changed)
        return changed

    def grow(self, name: str, partitions: int, reserve: Callable[[], None]) -> TopicDescription:
        """Give a topic more partitions; returns what it was before.

        Args:
            reserve: Called before anything changed: raises where there is no room.

        Raises:
            UnknownTopicError: there is none of that name.
            ConfigError: it has more already: partitions never go.
        """
        with locked_directory(self.path):
            found = self.describe(name)
            if partitions < found.partitions:
                raise ConfigError(
                    f"topic {name!r} has {found.partitions} partitions: there cannot be {partitions}, since "
                    "partitions are added and never taken away; copy it into a new topic"
                )
            reserve()
            self._replace(found, replace(found, partitions=partitions))
        return found

    def _replace(self, found: TopicDescription, changed: TopicDescription) -> None:
        """Replace topic.json, on disk on return."""
        if changed == found:
            return
        directory = self.directory_of(found.name)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            place_file(fd, "topic.json", topic_bytes(changed), f"{directory}/topic.json")
        finally:
            os.close(fd)

    def set_aside(self, found: TopicDescription) -> str | None:
        """Take a topic's directory away from its name; return its new path, None where it had gone."""
        aside = f".{found.name}.{found.uuid[:16]}.deleted.tmp"
        with locked_directory(self.path) as topics:
            try:
                if self.describe(found.name).uuid != found.uuid:
                    return None
                os.rename(found.name, aside, src_dir_fd=topics, dst_dir_fd=topics)
                os.fsync(topics)
            except UnknownTopicError:
                return None
            except OSError as error:
                raise clear_error(error, self.directory_of(found.name)) from None
        return f"{self.path}/{aside}"

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half made or half deleted. Only where nobody else lived."""
        # the lock: whoever opened since then may be making a topic
        with locked_directory(self.path), os.scandir(self.path) as entries:
            for entry in entries:
                if not (entry.name.startswith(".") and entry.name.endswith(".tmp")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with suppress(FileNotFoundError):
                        os.unlink(entry)  # noqa: PTH108 - an entry, not a path


def compare(
    found: TopicDescription, partitions: int | None, partitioner: str | None, given: Mapping[str, object]
) -> None:
    """Raise TopicConfigError where the topic that is there differs from what is given."""
    differences = config_differences(found.config, given)
    if partitions is not None and partitions != found.partitions:
        differences["partitions"] = (found.partitions, partitions)
    if partitioner is not None and partitioner != found.partitioner:
        differences["partitioner"] = (found.partitioner, partitioner)
    if differences:
        listed = ", ".join(f"{key} is {a!r}, not {b!r}" for key, (a, b) in differences.items())
        raise TopicConfigError(
            f"topic {found.name!r} exists with another configuration: {listed}",
            topic=found.name,
            differences=differences,
        )


def topic_bytes(topic: TopicDescription) -> bytes:
    """Return the content of topic.json."""
    content = {
        "name": topic.name,
        "uuid": topic.uuid,
        "partitions": topic.partitions,
        "partitioner": topic.partitioner,
        "config": topic.config.as_dict(),
    }
    return json.dumps({**content, "checksum": checksum_of(content)}, indent=1).encode() + b"\n"


def checksum_of(content: dict[str, Any]) -> str:
    """Return the checksum of the content of topic.json (FORMAT.md, section 1)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{xxh3_64(text.encode()):016x}"


def parse_topic(content: bytes, name: str, path: str) -> TopicDescription:
    """Return what the content of topic.json says; raise where that is nothing sound."""
    try:
        found: dict[str, Any] = json.loads(content)
        if found.pop("checksum") != checksum_of(found):
            raise ValueError("its checksum does not fit")
        identity, config = found["uuid"], found["config"]
        if found["name"] != name or not isinstance(identity, str) or not HEX.fullmatch(identity):
            raise ValueError("another topic's name, or no uuid")
        partitions = check_count(found["partitions"], "partitions", 1, MAX_PARTITIONS)
        if not isinstance(config, dict):
            raise TypeError("config is no object")
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError, PylogError) as error:
        raise CorruptionError(f"{path} is damaged: {error}", path=path, position=0) from None
    try:
        partitioner = check_choice(found["partitioner"], "partitioner", PARTITIONERS)
        return TopicDescription(name, identity, partitions, partitioner, topic_config(config, TopicConfig()))
    except (ConfigError, KeyError, TypeError) as error:
        raise FormatError(f"{path} needs a newer pylog, or is damaged: {error}") from None
