"""Load-balanced consumers, pattern 5: groups without a server, in one process and in several."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import pytest
from children import Child
from settling import poll_until, settle

import pylog
from pylog.embedded.group_state import decode_state, encode_state

MEMBER = """
import sys, pylog
options = eval(sys.argv[2])
with pylog.open(sys.argv[1]) as engine, engine.consumer("t", group="g", **options) as consumer:
    print(len(consumer.assignment()), flush=True)
    commits = "commit" in sys.argv
    while True:
        records = consumer.poll(timeout=0.05)
        if commits and records:
            consumer.commit()
            print(sum(consumer.committed(place) or 0 for place in consumer.assignment()), flush=True)
"""


def test_members_share_the_partitions_and_hand_them_over(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=6)
    first = engine.consumer("t", group="g")
    assert len(first.assignment()) == 6
    second = engine.consumer("t", group="g")
    settle([first, second], 6)
    second.close()
    settle([first], 6)


@pytest.mark.parametrize("assignor", ["range", "round_robin", "cooperative_sticky", "weighted"])
def test_every_record_goes_to_one_member(engine: pylog.Engine, assignor: str) -> None:
    engine.create_topic("t", partitions=5)
    members = [
        engine.consumer("t", group="g", assignor=assignor, auto_offset_reset="earliest") for _ in range(3)
    ]
    poll_until(members, lambda: sum(len(member.assignment()) for member in members) == 5)
    engine.append_many("t", [b"%d" % n for n in range(500)], [b"%d" % n for n in range(500)])
    found: list[pylog.Record] = []
    while len(found) < 500:
        for member in members:
            found += member.poll(timeout=0.01)
    assert sorted(int(record.value or b"") for record in found) == list(range(500))


def test_members_agree_on_the_assignor(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    with engine.consumer("t", group="g", assignor="range"):
        with pytest.raises(pylog.ConfigError, match="range"):
            engine.consumer("t", group="g")
    engine.consumer("t", group="g").close()


def test_5a_one_that_joins_takes_its_share_and_the_rest_never_pause(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=100)
    revoked: list[object] = []
    members = [
        engine.consumer("t", group="g", on_revoke=lambda places, seconds: revoked.extend(places))
        for _ in range(3)
    ]
    settle(members, 100)
    revoked.clear()
    before = [set(member.assignment()) for member in members]
    members.append(engine.consumer("t", group="g"))
    settle(members, 100)
    assert len(revoked) <= math.ceil(100 / 4)
    kept = [was & set(member.assignment()) for was, member in zip(before, members[:3], strict=True)]
    assert sum(map(len, kept)) == 100 - len(revoked)


def test_5a_what_stays_goes_on_where_it_was(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=4)
    engine.append_many("t", [b"x"] * 40, partition=0)
    first = engine.consumer("t", group="g", auto_offset_reset="earliest")
    iterator = iter(first)
    assert [next(iterator).offset for _ in range(5)] == [0, 1, 2, 3, 4]
    first.pause([("t", 1)])
    second = engine.consumer("t", group="g")
    offsets = []
    while len(first.assignment()) == 4:
        offsets.append(next(iterator).offset)
    assert ("t", 0) in first.assignment()
    offsets += [next(iterator).offset for _ in range(5)]
    assert offsets == list(range(5, 5 + len(offsets)))
    assert set(first.paused()) <= {("t", 1)}
    second.close()


def test_5b_a_handler_that_holds_the_interpreter_causes_no_rebalance(data: Path) -> None:
    # the heartbeat is native: an interpreter that lets nobody in is as alive as any other
    busily = """    sys.setswitchinterval(1000)
    while True:
        x = 0
        while x < 30_000_000: x += 1
        print('turn', flush=True)
"""
    script = MEMBER.replace("    while True:\n", busily)
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=2)
        with Child(script, data, {"session_timeout_ms": 300}) as busy:
            assert busy.says() == "2"
            with engine.consumer("t", group="g", session_timeout_ms=300) as other:
                busy.says()                                      # it works, and polls between its turns
                poll_until([other], lambda: len(other.assignment()) == 1)
                for _ in range(3):
                    busy.says()
                    other.poll()
                    assert len(other.assignment()) == 1


def test_5b_a_member_that_does_not_poll_loses_its_partitions(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=2)
    engine.append("t", b"x", partition=0)
    stuck = engine.consumer("t", group="g", auto_offset_reset="earliest", max_poll_interval_ms=200)
    assert len(stuck.poll(timeout=5.0)) == 1
    other = engine.consumer("t", group="g", auto_offset_reset="earliest")
    poll_until([other], lambda: len(other.assignment()) == 2)
    with pytest.raises(pylog.IllegalGenerationError):
        stuck.commit()
    settle([stuck, other], 2)                                     # it comes back as a new member


def test_5c_a_commit_of_an_old_generation_raises_and_changes_nothing(data: Path) -> None:
    script = """
import sys, pylog
with pylog.open(sys.argv[1]) as engine:
    consumer = engine.consumer("t", group="g", session_timeout_ms=200, auto_offset_reset="earliest")
    print(len(consumer.poll()), flush=True)
    sys.stdin.readline()
    try:
        consumer.commit()
    except pylog.IllegalGenerationError:
        print("fenced", flush=True)
"""
    with pylog.open(data) as engine:
        engine.create_topic("t")
        engine.append_many("t", [b"a", b"b", b"c"])
        with Child(script, data) as zombie:
            assert zombie.says() == "3"
            zombie.stop()
            with engine.consumer("t", group="g", auto_offset_reset="earliest") as other:
                poll_until([other], lambda: len(other.assignment()) == 1)
                os.kill(zombie.pid, signal.SIGCONT)
                zombie.tell("commit")
                assert zombie.says() == "fenced"
                assert other.committed(("t", 0)) is None
                other.seek(("t", 0), 1)
                other.commit()
                assert other.committed(("t", 0)) == 1


def test_5c_who_is_no_member_commits_only_while_the_group_is_empty(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    engine.append_many("t", [b"a", b"b"])
    alone = engine.consumer(group="g", auto_offset_reset="earliest")
    alone.assign([("t", 0)])
    with engine.consumer("t", group="g"):
        with pytest.raises(pylog.IllegalGenerationError):
            alone.commit({("t", 0): 1})
    alone.commit({("t", 0): 2})
    assert alone.committed(("t", 0)) == 2


def test_5d_a_static_member_that_restarts_moves_nothing(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=4)
        moved: list[object] = []
        with engine.consumer("t", group="g", on_assign=moved.extend) as other:
            options = {"group_instance_id": "static"}
            with Child(MEMBER, data, options) as static:
                static.says()
                poll_until([other], lambda: len(other.assignment()) == 2)
                before = other.assignment()
                moved.clear()
                static.kill()
                other.poll(timeout=0.6)
            with Child(MEMBER, data, options) as static:
                assert static.says() == "2"
                other.poll(timeout=0.6)
                assert (other.assignment(), moved) == (before, [])


def test_5d_a_static_member_that_stays_away_is_replaced(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=4)
    other = engine.consumer("t", group="g")
    engine.consumer("t", group="g", group_instance_id="static", session_timeout_ms=100).close()
    settle([other], 4)


def test_5d_a_second_consumer_of_the_same_instance_fences_the_first(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    first = engine.consumer("t", group="g", group_instance_id="static")
    second = engine.consumer("t", group="g", group_instance_id="static")
    assert second.assignment() == [("t", 0)]
    with pytest.raises(pylog.FencedError, match="group_instance_id"):
        first.poll()


def test_5e_a_revoke_callback_drains_and_commits_before_the_partition_goes(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=2)
    engine.append_many("t", [b"x"] * 5, partition=0)
    engine.append_many("t", [b"x"] * 5, partition=1)
    left: list[float] = []

    def drain(places: list[pylog.TopicPartition], seconds: float) -> None:
        left.append(seconds)
        first.commit()

    first = engine.consumer(
        "t", group="g", auto_offset_reset="earliest", on_revoke=drain, rebalance_timeout_ms=30_000
    )
    assert len(first.poll()) == 10
    second = engine.consumer("t", group="g", auto_offset_reset="earliest")
    settle([first, second], 2)
    assert left == [30.0]
    assert second.poll(timeout=0.0) == []                         # all of it was done, and committed
    assert [second.position(place) for place in second.assignment()] == [5]


def test_5e_a_partition_that_is_not_let_go_of_in_time_is_taken(engine: pylog.Engine) -> None:
    engine.create_topic("t", partitions=2)
    slow = engine.consumer("t", group="g", rebalance_timeout_ms=200)
    engine.append_many("t", [b"x", b"x"], partition=0)
    engine.append_many("t", [b"x", b"x"], partition=1)
    other = engine.consumer("t", group="g")
    poll_until([other], lambda: len(other.assignment()) == 1)
    with pytest.raises(pylog.IllegalGenerationError):
        slow.commit(dict.fromkeys(slow.assignment(), 1))


def test_5f_partitions_of_a_killed_member_are_with_others_within_a_second(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=4)
        engine.append_many("t", [b"%d" % n for n in range(40)], [b"%d" % n for n in range(40)])
        with Child(MEMBER, data, {"auto_offset_reset": "earliest"}, "commit") as child:
            assert child.says() == "4"
            assert child.says() == "40"
            child.kill()
            with engine.consumer("t", group="g", auto_offset_reset="earliest") as other:
                poll_until([other], lambda: len(other.assignment()) == 4)
                assert other.poll() == []                         # nothing that was committed is redone


def test_5f_a_sleeping_member_takes_over_from_one_that_is_killed(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t", partitions=4)
        with engine.consumer("t", group="g", auto_offset_reset="earliest") as other:
            with Child(MEMBER, data, {}) as child:
                child.says()
                poll_until([other], lambda: len(other.assignment()) == 2)
                child.kill()
                for partition in range(4):
                    engine.append("t", b"x", partition=partition)
                found: list[pylog.Record] = []
                while len(found) < 4:
                    more = other.poll(timeout=20.0)
                    assert more
                    found += more
                assert {record.partition for record in found} == {0, 1, 2, 3}


def test_auto_commit_commits_only_what_the_application_was_given_before(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    engine.append_many("t", [b"x"] * 3)
    consumer = engine.consumer(
        "t", group="g", auto_offset_reset="earliest", enable_auto_commit=True, auto_commit_interval_ms=0
    )
    iterator = iter(consumer)
    next(iterator)
    assert consumer.committed(("t", 0)) == 0
    next(iterator)
    consumer.poll(1)
    assert consumer.committed(("t", 0)) == 2
    consumer.close()
    with engine.consumer(group="g") as after:
        assert after.committed(("t", 0)) == 3


def test_a_commit_keeps_metadata(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    engine.append("t", b"x")
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        consumer.commit({("t", 0): pylog.OffsetAndMetadata(1, b"host-7")})
        assert consumer.committed_with_metadata(("t", 0)) == (1, b"host-7")


@pytest.mark.parametrize("forged", [None, {"place": 1024}, {"slot": -1}, {"token": "x"}, {"topics": [7]}])
def test_a_damaged_or_forged_group_document_costs_a_rebalance_and_no_offset(
    engine: pylog.Engine, data: Path, forged: dict[str, object] | None
) -> None:
    engine.create_topic("t", partitions=2)
    engine.append_many("t", [b"x"] * 4, partition=0)
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll()
        consumer.commit()
        path = data / "groups" / "g" / "members" / "state"
        if forged is None:
            path.write_bytes(b"{")
        else:  # with a checksum that fits
            state = decode_state(path.read_bytes(), str(path))
            for name, value in forged.items():
                setattr(next(iter(state.members.values())), name, value)
            path.write_bytes(encode_state(state))
        with engine.consumer("t", group="g", auto_offset_reset="earliest") as other:
            settle([consumer, other], 2)
            assert max(other.committed(("t", 0)) or 0, consumer.committed(("t", 0)) or 0) == 4
