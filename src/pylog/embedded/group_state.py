"""What the members of a group share: who they are, what each owns, and what each shall own.

Two files in `groups/<group>/members/` (docs/FORMAT.md section 10): `state`, a checked document that is
replaced as a whole, and `shared`, a mapped page with a revision word and the times of the last polls. Not the
committed offsets, which are commits.py's. Invariant: the document is changed under the lock of its directory
only, and the revision is bumped after each change, so that who saw an old revision looks again.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from logcore.hashing import xxh3_64
from logcore.processes import Registry
from logcore.whole_files import locked_directory, make_directory, open_plain, place_file
from pylog.embedded.directory import check_real_directory
from pylog.errors import FormatError, UnsupportedError
from pylog.records import TopicPartition

logger = logging.getLogger("pylog")

MAX_MEMBERS = 1024
MOST_STATE_BYTES = 64 << 20
SHARED_MAGIC = b"pyloggrp"
SHARED_WORDS = 8 + MAX_MEMBERS
"""u64 words: magic, revision, six reserved, then the last poll of each place in ns of CLOCK_BOOTTIME."""
REVISION = 1
FIRST_POLL = 8


def boot_time() -> float:
    """Return seconds of CLOCK_BOOTTIME: the same for all processes, and it goes on in suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class Member:
    """One member of a group. Times are CLOCK_BOOTTIME seconds; generations say since when it owns what."""

    member_id: str
    token: int
    """Random: another join under the same member_id is another member."""
    slot: int
    incarnation: int
    pid: int
    place: int
    """Its word in the shared page."""
    topics: list[str]
    patterns: list[str]
    instance_id: str | None = None
    capacity: float = 1.0
    session_timeout: float = 10.0
    max_poll_interval: float = 300.0
    rebalance_timeout: float = 60.0
    owned: dict[TopicPartition, int] = field(default_factory=dict)
    target: list[TopicPartition] = field(default_factory=list)
    left_at: float | None = None
    """Of a static member: when it was seen to be gone; it may come back."""
    revoke_by: float | None = None
    """When what it owns and shall not own is taken from it."""

    def to_revoke(self) -> list[TopicPartition]:
        """Return what it owns and shall not own."""
        return sorted(set(self.owned).difference(self.target))


@dataclass(slots=True)
class GroupState:
    """The document."""

    generation: int = 0
    assignor: str = ""
    members: dict[str, Member] = field(default_factory=dict)

    def owner(self, place: TopicPartition) -> Member | None:
        """Return who owns a partition."""
        return next((member for member in self.members.values() if place in member.owned), None)


def encode_state(state: GroupState) -> bytes:
    """Return the bytes of the document."""
    members = []
    for member in state.members.values():
        fields = {name: getattr(member, name) for name in Member.__slots__ if name not in ("owned", "target")}
        fields["owned"] = [[*place, generation] for place, generation in member.owned.items()]
        fields["target"] = [list(place) for place in member.target]
        members.append(fields)
    document = {"generation": state.generation, "assignor": state.assignor, "members": members}
    return json.dumps(document | {"checksum": _checksum(document)}).encode()


def decode_state(content: bytes, path: str) -> GroupState:
    """Return the document; an empty one where it is damaged: its members then join anew."""
    try:
        document = json.loads(content)
        if document.pop("checksum") != _checksum(document):
            raise ValueError("the checksum does not fit")
        state = GroupState(int(document["generation"]), str(document["assignor"]))
        for fields in document["members"]:
            owned = {TopicPartition(topic, p): generation for topic, p, generation in fields.pop("owned")}
            target = [TopicPartition(topic, p) for topic, p in fields.pop("target")]
            member = Member(**fields, owned=owned, target=target)
            _check_member(member)
            state.members[member.member_id] = member
        return state
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s is damaged, its members join anew: %s", path, error)
        return GroupState()


def _check_member(member: Member) -> None:
    """Raise ValueError where a number is none, or names a place that is not there."""
    places = [*member.owned, *member.target]
    whole = [member.token, member.slot, member.incarnation, member.pid, member.place, *member.owned.values()]
    whole += [partition for _, partition in places]
    times = [member.capacity, member.session_timeout, member.max_poll_interval, member.rebalance_timeout]
    times += [time for time in (member.left_at, member.revoke_by) if time is not None]
    if not all(type(number) is int and 0 <= number < 1 << 64 for number in whole):
        raise ValueError(f"the numbers of member {member.member_id!r}")
    if member.place >= MAX_MEMBERS or member.slot >= MAX_MEMBERS:
        raise ValueError(f"the place of member {member.member_id!r}")
    if not all(isinstance(time, int | float) for time in times):
        raise ValueError(f"the times of member {member.member_id!r}")
    names = [member.member_id, *member.topics, *member.patterns, *(topic for topic, _ in places)]
    if not all(isinstance(name, str) for name in [*names, member.instance_id or ""]):
        raise ValueError(f"the names of member {member.member_id!r}")


def _checksum(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return f"{xxh3_64(canonical.encode()):016x}"


class GroupFiles:
    """The two files of a group, opened by one of its members, or to look at it (`create=False`)."""

    def __init__(self, directory: str, registry: Registry, *, create: bool) -> None:
        self.directory = directory
        self._registry = registry
        self._path = f"{directory}/state"
        self._words: memoryview | None = None
        self._mapping: mmap.mmap | None = None
        check_real_directory(directory)
        if create:
            make_directory(directory.rpartition("/")[0])
            make_directory(directory)
            with locked_directory(directory) as fd:
                self._map(fd)

    def _map(self, directory: int) -> None:
        """Map the shared page, made where it is missing or not of this layout."""
        path, size = f"{self.directory}/shared", SHARED_WORDS * 8
        for _ in range(2):
            try:
                fd = open_plain(directory, "shared", path, os.O_RDWR)
            except FileNotFoundError:
                fd = -1
            if fd >= 0:
                try:
                    if os.fstat(fd).st_size == size and os.pread(fd, 8, 0) == SHARED_MAGIC:
                        self._mapping = mmap.mmap(fd, size)
                        self._words = memoryview(self._mapping).cast("Q")
                        return
                finally:
                    os.close(fd)
            # bytes that are written, not a hole: a store into a hole of a full disk would be a SIGBUS
            place_file(directory, "shared", SHARED_MAGIC + bytes(size - 8), path, durable=False)
        raise FormatError(f"{path} changed while it was made: is something else writing there?")

    def close(self) -> None:
        """Unmap."""
        if self._words is not None and self._mapping is not None:
            self._words.release()
            self._mapping.close()
            self._words = self._mapping = None

    # ---- the shared page ----------------------------------------------------------------------------

    def _page(self) -> memoryview:
        if self._words is None:
            raise UnsupportedError("the group was opened to look at it only")
        return self._words

    @property
    def revision(self) -> int:
        """A number that changes with the document."""
        return int(self._page()[REVISION])

    def polled(self, place: int, now: float) -> None:
        """Say that the member at `place` polls."""
        self._page()[FIRST_POLL + place] = int(now * 1e9)

    def last_poll(self, place: int) -> float:
        """Return when the member at `place` polled last."""
        return float(self._page()[FIRST_POLL + place] / 1e9)

    # ---- the document -------------------------------------------------------------------------------

    def load(self) -> GroupState:
        """Return the document as it is now; an empty one where there is none.

        Raises:
            FormatError: a link, a pipe or a directory stands in its place.
        """
        try:
            fd = open_plain(None, self._path, self._path, os.O_RDONLY)
        except FileNotFoundError:
            return GroupState()
        with os.fdopen(fd, "rb") as file:
            return decode_state(file.read(MOST_STATE_BYTES), self._path)

    @contextmanager
    def changing(self) -> Iterator[GroupState]:
        """Hold the group, and store what the block makes of its document; whoever sleeps is woken.

        Not durable: members do not outlive a power cut, and the offset tables know the last generation.

        Raises:
            LockTimeoutError: a stopped process has held the group for 10 seconds.
            DiskFullError: nothing was changed.
        """
        with locked_directory(self.directory) as fd:
            state = self.load()
            before = encode_state(state)
            yield state
            after = encode_state(state)
            if after == before:
                return
            place_file(fd, "state", after, self._path, durable=False)
            page = self._page()
            page[REVISION] = (page[REVISION] + 1) & 0xFFFF_FFFF_FFFF_FFFF
        self._registry.ring_all()
