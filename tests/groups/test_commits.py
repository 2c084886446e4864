"""Commits that nobody waits for: what they answer, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
from settling import poll_until

import pylog
from pylog.engine import OnCommit

Answers = list[tuple[int, BaseException | None]]


def noting(said: Answers) -> OnCommit:
    """A callback that notes the offset of each commit and what went wrong."""

    def on_commit(
        offsets: dict[pylog.TopicPartition, pylog.OffsetAndMetadata], error: BaseException | None
    ) -> None:
        said.extend((one.offset, error) for one in offsets.values())

    return on_commit


def test_a_commit_that_is_not_awaited_is_seen_at_once_and_answered_once_it_is_on_disk(
    engine: pylog.Engine,
) -> None:
    said: Answers = []
    engine.create_topic("t", durability="sync")
    engine.append_many("t", [b"x"] * 9)
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        for _ in range(3):
            consumer.poll(2)
            consumer.commit_async(on_commit=noting(said))
        assert consumer.committed(("t", 0)) == 6
        poll_until([consumer], lambda: len(said) == 3)
        assert said == [(2, None), (4, None), (6, None)]


def test_a_sleeping_poll_is_woken_to_answer_a_commit(engine: pylog.Engine) -> None:
    said: Answers = []
    engine.create_topic("t", durability="sync")
    engine.append("t", b"x")
    with engine.consumer("t", group="g", auto_offset_reset="earliest", timeout=None) as consumer:
        consumer.poll(1)

        def append_once_told(
            offsets: dict[pylog.TopicPartition, pylog.OffsetAndMetadata], error: BaseException | None
        ) -> None:
            noting(said)(offsets, error)
            engine.append("t", b"y")

        consumer.commit_async(on_commit=append_once_told)
        assert next(iter(consumer)).value == b"y"  # which nobody appends before the answer came
    assert said == [(1, None)]


def test_5c_a_zombie_that_does_not_wait_is_told_all_the_same(data: Path) -> None:
    with pylog.open(data) as engine:
        engine.create_topic("t")
        engine.append_many("t", [b"a", b"b", b"c"])
        said: Answers = []
        zombie = engine.consumer("t", group="g", max_poll_interval_ms=100, auto_offset_reset="earliest")
        zombie.poll()
        with engine.consumer("t", group="g", auto_offset_reset="earliest") as other:
            poll_until([other], lambda: len(other.assignment()) == 1)
            zombie.commit_async(on_commit=noting(said))
            assert other.committed(("t", 0)) is None
        zombie.poll()
        ((offset, error),) = said
        assert offset == 3 and isinstance(error, pylog.IllegalGenerationError)
        zombie.close()


def test_a_failed_sync_is_told_to_the_callback(engine: pylog.Engine, data: Path) -> None:
    said: Answers = []
    engine.create_topic("t", durability="sync")
    engine.append_many("t", [b"x"] * 4)
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        consumer.poll(2)
        consumer.commit()
        # what a sync leaves behind where fdatasync failed: the errno, behind session, mutex and holder
        with (data / "groups" / "g" / "t.offsets").open("r+b") as file:
            file.seek(4096 + 8 + 40 + 4)
            file.write((5).to_bytes(4, "little"))
        consumer.commit_async(on_commit=noting(said))
        consumer.poll()
        ((offset, error),) = said
        assert offset == 2 and isinstance(error, pylog.DurabilityError)


def test_what_a_callback_raises_comes_out_of_the_poll_once(engine: pylog.Engine) -> None:
    engine.create_topic("t")
    engine.append("t", b"x")

    def on_commit(
        offsets: dict[pylog.TopicPartition, pylog.OffsetAndMetadata], error: BaseException | None
    ) -> None:
        raise RuntimeError("of the application")

    with engine.consumer("t", group="g", auto_offset_reset="earliest") as consumer:
        consumer.commit_async(on_commit=on_commit)
        with pytest.raises(RuntimeError, match="of the application"):
            consumer.poll()
        assert [record.value for record in consumer.poll()] == [b"x"]


def test_a_failure_that_nobody_asks_for_is_logged(
    engine: pylog.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.create_topic("t")
    zombie = engine.consumer("t", group="g", max_poll_interval_ms=100, auto_offset_reset="earliest")
    with engine.consumer("t", group="g", auto_offset_reset="earliest") as other:
        poll_until([other], lambda: len(other.assignment()) == 1)
        zombie.commit_async()
    zombie.poll()
    assert "commit_async" in caplog.text
    zombie.close()
