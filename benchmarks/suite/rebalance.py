"""From the kill of a member to the first record at the new owner of each of its partitions.

Members are processes of one group, two partitions each. One is killed with SIGKILL, a record is appended to
each of its partitions, and the clock runs until another member has it; then a new member takes its place.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from benchmarks.contest import Contest, Contestant, Operation, Row, Timed, Timing
from benchmarks.probe.operations import percentiles
from benchmarks.processes import PATIENCE, Child, ChildError
from benchmarks.suite.opening import TOPIC, TopicShape, engine_with_topic, open_engine
from benchmarks.workload import Workload, workload

PARTITIONS_EACH = 2
KILLS = {2: 20, 8: 20, 32: 10}


class Group:
    """The living members, and what they say about themselves."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        self.partitions = count * PARTITIONS_EACH
        self.members: list[Child] = []
        self.held: dict[Child, set[int]] = {}
        for _ in range(count):
            self.join()

    def join(self) -> None:
        """Start another member."""
        member = Child(member_process, 0, self.directory)
        self.members.append(member)
        self.held[member] = set()

    def heard(self) -> Iterator[tuple[Any, ...]]:
        """What members say, one after the other; what they hold is noted on the way."""
        while True:
            pipes: dict[Any, Child] = {member.pipe: member for member in self.members}
            ready = wait(list(pipes), PATIENCE)
            if not ready:
                raise ChildError("the group has said nothing for too long")
            for pipe in ready:
                said = pipes[pipe].receive()
                if said[0] == "holds":
                    self.held[pipes[pipe]] = set(said[1])
                yield said

    def settle(self) -> None:
        """Return when every partition has one owner, and every member its share."""
        for _ in self.heard():
            shares = [self.held[member] for member in self.members]
            even = all(len(share) == PARTITIONS_EACH for share in shares)
            if even and len(set().union(*shares)) == self.partitions:
                return

    def kill(self, engine: Any, number: int) -> list[float]:
        """Kill the oldest member; the seconds until each of its partitions goes on elsewhere."""
        victim = self.members.pop(0)
        waiting = self.held.pop(victim)
        assert victim.process.pid is not None
        delays = []
        started = time.monotonic_ns()
        os.kill(victim.process.pid, signal.SIGKILL)
        for partition in waiting:
            engine.append(TOPIC, b"%d" % number, partition=partition)
        for said in self.heard():
            if said[0] == "record" and said[1] in waiting and said[2] == number:
                waiting.discard(said[1])
                delays.append((said[3] - started) / 1e9)
            if not waiting:
                break
        victim.end()
        return delays

    def end(self) -> None:
        """Let all members leave."""
        for member in self.members:
            with contextlib.suppress(OSError):
                member.send("end")
        for member in self.members:
            member.process.join(10)
            member.end()


def rebalance(count: int) -> Operation:
    """Kill one of `count` members after the other."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with engine_with_topic(directory, TopicShape(partitions=count * PARTITIONS_EACH)) as engine:
            group = Group(directory, count)
            try:
                group.settle()

                def timed() -> Timing:
                    delays: list[float] = []
                    for number in range(work.count):
                        delays += group.kill(engine, number)
                        group.join()
                        group.settle()
                    return percentiles(delays)

                yield timed
            finally:
                group.end()

    return operation


def member_process(number: int, directory: Path, pipe: Connection) -> None:
    """One member: says what it holds, and which first records it got of what is new to it."""
    held: set[int] = set()

    def assigned(places: list[Any]) -> None:
        held.update(place.partition for place in places)
        pipe.send(("holds", sorted(held)))

    def revoked(places: list[Any], seconds: float) -> None:
        held.difference_update(place.partition for place in places)
        pipe.send(("holds", sorted(held)))

    options: dict[str, Any] = {"auto_offset_reset": "earliest", "on_assign": assigned, "on_revoke": revoked}
    with open_engine(directory) as engine, engine.consumer(TOPIC, group="g", **options) as consumer:
        while not pipe.poll():
            for record in consumer.poll(100, timeout=0.2):
                pipe.send(("record", record.partition, int(record.value), time.monotonic_ns()))
            consumer.commit()


def rebalancing(members: int, slow: float) -> Contest:
    """One size of group."""
    kills = max(2, int(KILLS[members] * slow))
    return Contest(
        name=f"rebalance, {members} members",
        size=100,
        codec="raw",
        durability="os",
        contestants=(Contestant("kill", rebalance(members), workload(100, kills)),),
        rows=(Row(f"kill -9 to first record at the new owner, p50, {members} members", "kill"),),
        unit="ms",
        rounds=1,
        warm_up=False,
    )
