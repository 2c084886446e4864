"""Contests of appending one record a call: producer.send and engine.append."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.contest import Contest, Contestant, Goal, Row
from benchmarks.probe import operations as ceilings
from benchmarks.suite import append
from benchmarks.suite.opening import TopicShape
from benchmarks.workload import workload

FLUSH_BYTES = 1 << 18       # what a producer holds by default before it flushes: the zstd ceiling's block


def records_of(block: int, size: int) -> int:
    """Records of a block of about so many bytes, as a divisor of the pool."""
    return next(n for n in (10_000, 5_000, 2_000, 1_000, 500, 200, 100) if n * (size + 8) <= block)


def one_by_one(size: int, count: int, slow: float) -> Contest:
    """Record by record, not synced, beside one trivial call a record."""
    work = workload(size, count)
    others = peers.contestants("one by one", False, work, slow)
    names = tuple(peer.name for peer in others)
    probe, probe_4 = "trivial call", "trivial call, 4 files"
    goals = {
        "send": Goal(1.0, peers={"plain file": 2, "LMDB nosync": 5, "SQLite WAL NORMAL": 5}),
        "send 4": Goal(0.9),
        "append": Goal(0.6, peers={"LMDB nosync": 5, "SQLite WAL NORMAL": 5}),
    }
    if size != 100:
        goals = dict.fromkeys(goals, Goal())
    return Contest(
        name=f"one by one, {size} B",
        size=size,
        codec="raw",
        durability="os",
        contestants=(
            Contestant(probe, ceilings.send(1), work),
            Contestant("send", append.send(TopicShape()), work),
            Contestant(probe_4, ceilings.send(4), work),
            Contestant("send, 4 partitions", append.send(TopicShape(partitions=4)), work),
            Contestant("append", append.append(TopicShape()), work),
            *others,
        ),
        rows=(
            Row("producer.send, 1 partition", "send", probe, goals["send"], names),
            Row("producer.send, 4 partitions", "send, 4 partitions", probe_4, goals["send 4"], names),
            Row("engine.append, one visible on return", "append", probe, goals["append"], names),
        ),
    )


def zstd(size: int, count: int) -> Contest:
    """send into a compressed topic, beside one compression of the same bytes."""
    work = workload(size, count // 2)
    return Contest(
        name=f"one by one, {size} B zstd",
        size=size,
        codec="zstd",
        durability="os",
        contestants=(
            Contestant("zstd pass", ceilings.zstd_pass, work.in_calls_of(records_of(FLUSH_BYTES, size))),
            Contestant("send", append.send(TopicShape(codec="zstd")), work),
        ),
        rows=(Row("producer.send, 1 partition", "send", "zstd pass"),),
    )
