"""Queue and Delivery in one process (patterns 1, 3, 13, 15 and 19)."""

from __future__ import annotations

import gc
import resource
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from clocks import ManualClock
from taking import AT_ONCE, Opened, taken, values

import pylog
from pylog.filters import field_is, header_is, key_is, where


def test_what_is_put_is_got_in_its_order_and_acked(opened: Opened) -> None:
    jobs = opened()
    ids = [jobs.put(b"%d" % n, key=b"k", headers={"n": b"%d" % n}) for n in range(3)]
    assert [id.offset for id in ids if id is not None] == [0, 1, 2]
    with taken(jobs) as delivery:
        assert (delivery.value, delivery.key, delivery.headers) == (b"0", b"k", [("n", b"0")])
        assert (delivery.offset, delivery.delivery_count, delivery.priority) == (0, 1, 0)
        assert jobs.qsize() == 2
        assert jobs.qsize("in_flight") == 1
    assert values(jobs) == [b"1", b"2"]
    assert jobs.qsize() == 0
    assert jobs.get(0) is None


def test_a_handler_that_raises_has_the_record_delivered_again(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    with pytest.raises(LookupError), taken(jobs):
        raise LookupError
    with taken(jobs) as again:
        assert (again.value, again.delivery_count) == (b"a", 2)


def test_an_interrupt_burns_no_attempt(opened: Opened) -> None:
    jobs = opened(max_deliveries=1)
    jobs.put(b"a")
    for interrupt in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(interrupt), taken(jobs):
            raise interrupt
    assert taken_count(jobs) == 1


def taken_count(jobs: pylog.Queue) -> int:
    with taken(jobs) as delivery:
        return delivery.delivery_count


def test_a_loop_that_is_left_gives_back_what_it_had(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"1", b"2", b"3"])
    with pytest.raises(KeyboardInterrupt):
        for delivery in jobs:
            with delivery:
                if delivery.value == b"2":
                    raise KeyboardInterrupt
    del delivery
    assert values(jobs) == [b"2", b"3"]


def test_a_delivery_that_is_dropped_is_given_back_and_warned_of(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jobs.get(0)
        gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning]
    assert taken_count(jobs) == 2


def test_a_prefetched_delivery_that_is_dropped_burns_no_attempt(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"a", b"b"])
    batch = jobs.get_many(10, 0)
    assert [delivery.delivery_count for delivery in batch] == [0, 0]
    del batch
    gc.collect()
    assert taken_count(jobs) == 1


def test_many_are_acked_at_once_and_the_lost_ones_told(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"%d" % n for n in range(5)])
    batch = jobs.get_many(5, 0)
    batch[1].nack(0.0)
    assert [delivery.value for delivery in jobs.ack_many(batch)] == [b"1"]
    assert values(jobs) == [b"1"]


def test_3a_what_is_over_cannot_be_ended_again(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    first = taken(jobs)
    first.nack(0.0)
    second = taken(jobs)
    assert second.token > first.token
    for end in (first.ack, first.nack, first.reject, first.extend):
        with pytest.raises(pylog.LeaseLostError):
            end()
    second.ack()
    assert jobs.qsize() == 0
    with pytest.raises(pylog.LeaseLostError):
        second.ack()


def test_nack_may_say_when(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    before = time.time_ns()
    taken(jobs).nack(3600.0)
    assert jobs.get(0) is None
    (entry,) = jobs.peek()
    assert (entry.state, entry.delivery_count) == ("delayed", 1)
    assert entry.due is not None
    assert entry.due >= before + 3600 * 10**9


def test_15c_attempts_and_next_due_time_are_seen_without_touching_the_record(opened: Opened) -> None:
    jobs = opened(retry=pylog.Retry.fixed(60.0))
    jobs.put(b"a")
    with pytest.raises(OSError), taken(jobs):
        raise OSError
    for _ in range(2):
        (entry,) = jobs.peek()
        assert (entry.record.value, entry.state, entry.delivery_count) == (b"a", "delayed", 1)
        assert entry.due == jobs.source.next_due()
    assert jobs.qsize("delayed") == 1


def test_delay_at_and_priority_are_headers_so_that_they_outlive_the_table(opened: Opened) -> None:
    jobs = opened(priorities=2)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    jobs.put(b"a", at=tomorrow, headers={"kind": b"x"})
    jobs.put(b"b", delay=60.0, priority=1, expiry=120.0)
    assert jobs.get(0) is None
    by_value = {entry.record.value: entry.record for entry in jobs.peek()}
    assert by_value[b"a"].headers[0] == ("kind", b"x")
    assert dict(by_value[b"a"].headers)["pylog-due"] == b"%d" % (
        round(tomorrow.timestamp() * 1_000_000) * 1000
    )
    assert set(dict(by_value[b"b"].headers)) == {"pylog-due", "pylog-priority", "pylog-expires"}


def test_headers_that_are_passed_on_do_not_say_when_it_comes(opened: Opened) -> None:
    jobs, other = opened(), opened("other")
    jobs.put(b"a", at=1)
    with taken(jobs) as delivery:
        other.put(b"a", headers=delivery.headers, delay=60.0)
    other.put(b"never", at=(1 << 63) - 1)
    assert other.get(0) is None
    assert [entry.state for entry in other.peek()] == ["delayed", "delayed"]


def test_a_delayed_record_comes_when_it_is_due_and_wakes_who_waits(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"later", delay=0.05)
    delivery = jobs.get(60)
    assert delivery is not None
    assert time.time_ns() >= int(dict(delivery.headers)["pylog-due"] or b"")
    delivery.ack()


def test_put_many_with_priorities_and_keys(opened: Opened) -> None:
    jobs = opened(priorities=2, partitions=3)
    keys = [b"k%d" % (n % 7) for n in range(40)]
    ids = jobs.put_many([b"%d" % n for n in range(40)], keys, priority=1)
    assert len(ids) == 40
    assert {id.partition for id in ids} <= {3, 4, 5}
    found = {entry.record.value: entry.record.key for entry in jobs.peek(100)}
    assert found == {b"%d" % n: keys[n] for n in range(40)}


def test_a_serde_writes_and_reads_values(opened: Opened) -> None:
    jobs = opened(serde="json")
    jobs.put({"order": 7})
    jobs.put_many([[1, 2], None])
    assert values(jobs) == [{"order": 7}, [1, 2], None]
    with pytest.raises(pylog.SerializationError):
        jobs.put({1, 2})


def test_puts_with_a_producer_id_and_a_sequence_are_in_once(engine: pylog.Engine) -> None:
    for _ in range(2):  # the second time as after a crash
        jobs = engine.queue("jobs", producer_id="loader")
        for sequence in range(jobs.resume_from(), 5):
            jobs.put(b"%d" % sequence, sequence=sequence)
        jobs.close()
    with engine.queue("jobs", producer_id="loader") as jobs:
        assert jobs.put(b"again", sequence=4) is None
        assert values(jobs) == [b"%d" % n for n in range(5)]
        with pytest.raises(pylog.ConfigError):
            jobs.put(b"x")
    with pytest.raises(pylog.ConfigError):
        engine.queue("jobs").put(b"x", sequence=9)


def test_many_with_priorities_and_too_few_keys_are_refused_and_none_is_lost(opened: Opened) -> None:
    jobs = opened(priorities=2)
    for keys in ([b"a"], [b"a"] * 3):
        with pytest.raises(ValueError, match="one key a value"):
            jobs.put_many([b"1", b"2"], keys, priority=1)
    assert jobs.qsize() == 0


def test_many_that_fail_in_the_second_partition_are_told_of_the_first(opened: Opened) -> None:
    jobs = opened(priorities=2, partitions=2)
    with pytest.raises(pylog.PartialAppendError) as failed:
        jobs.put_many([b"1", bytes(2 << 20)], priority=1)
    assert [tuple(record_id) for record_id in failed.value.appended] == [
        (entry.record.topic, entry.record.partition, entry.record.offset) for entry in jobs.peek()
    ]
    assert jobs.qsize() == 1


def test_2d_a_put_that_failed_is_not_in_with_a_later_one(engine: pylog.Engine) -> None:
    jobs = engine.queue("jobs", producer_id="loader")
    jobs.put(b"first", sequence=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(pylog.DiskFullError):
                jobs.put(bytes(500_000), sequence=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert jobs.resume_from() == 2
    assert jobs.put(b"third", sequence=3) == pylog.RecordId("jobs", 0, 1)
    assert values(jobs) == [b"first", b"third"]


def test_a_put_into_a_topic_that_was_deleted_is_refused(engine: pylog.Engine) -> None:
    jobs = engine.queue("jobs", producer_id="loader")
    jobs.put(b"first", sequence=1)
    engine.delete_topic("jobs")
    with pytest.raises(pylog.UnknownTopicError):
        jobs.put(b"refused", sequence=2)


def test_an_idempotent_queue_takes_no_puts_without_a_sequence(engine: pylog.Engine) -> None:
    jobs = engine.queue("jobs", producer_id="loader")
    with pytest.raises(pylog.ConfigError, match="sequence"):
        jobs.put_many([b"a"])


def test_what_is_no_state_is_refused(opened: Opened) -> None:
    jobs = opened()
    for state in ("level", "count", "dead"):
        with pytest.raises(pylog.ConfigError, match="state"):
            jobs.qsize(state)  # type: ignore[arg-type]
        with pytest.raises(pylog.ConfigError, match="state"):
            jobs.peek(1, state)  # type: ignore[arg-type]


def test_a_call_that_cannot_ack_many_ends_none_of_them(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"a", b"b"])
    both = jobs.get_many(2, 0)
    with pytest.raises(TypeError, match="deliveries"):
        jobs.ack_many([*both, None])  # type: ignore[list-item]
    assert not any(delivery.over for delivery in both)
    assert jobs.ack_many(both) == []


def test_purge_finishes_what_waits_and_leaves_what_is_in_flight(opened: Opened) -> None:
    jobs = opened()
    jobs.put_many([b"1", b"2", b"3"])
    first = taken(jobs)
    assert jobs.purge() == 2
    assert jobs.get(0) is None
    first.nack(0.0)
    assert values(jobs) == [b"1"]


def test_join_waits_until_all_is_finished(opened: Opened) -> None:
    jobs = opened()
    assert jobs.join(0)
    jobs.put(b"a")
    assert not jobs.join(0)
    delivery = taken(jobs)
    assert not jobs.join(0)
    delivery.ack()
    assert jobs.join()


# ---- options --------------------------------------------------------------------------------------------


def test_options_are_stored_and_a_different_one_is_refused(engine: pylog.Engine, data: Path) -> None:
    engine.queue("jobs", priorities=3, max_deliveries=7, dead_letter="graves").close()
    with engine.queue("jobs") as jobs:
        assert (jobs.priorities, jobs.source.config.max_deliveries) == (3, 7)
        assert jobs.dead_letters.topic == "graves"
    for options in ({"priorities": 2}, {"max_deliveries": 5}, {"dead_letter": "others"}):
        with pytest.raises(pylog.TopicConfigError) as refused:
            engine.queue("jobs", **options)  # type: ignore[arg-type]
        assert set(refused.value.differences) == set(options)
    with pylog.open(data) as other, other.queue("jobs", max_deliveries=7) as jobs:
        assert jobs.priorities == 3


@pytest.mark.parametrize(
    ("name", "options", "cure"),
    [
        ("j" * 198, {}, "jobs.dlq"),
        ("jobs", {"topic": "jobs.dlq"}, "graves"),
        ("others", {"topic": "back"}, "graves"),
    ],
)
def test_6c_without_a_dead_letter_topic_that_can_be_a_queue_is_refused_before_it_is_made(
    engine: pylog.Engine, name: str, options: dict[str, Any], cure: str
) -> None:
    engine.create_topic("jobs.dlq")
    engine.queue("back", dead_letter="last").close()
    engine.queue("others.dlq", dead_letter="back").close()
    before = engine.list_queues()
    with pytest.raises(pylog.ConfigError):
        engine.queue(name, **options)
    assert engine.list_queues() == before
    with engine.queue(name, dead_letter=cure, **options) as jobs:
        jobs.put(b"a")
        taken(jobs).reject()
        assert len(jobs.dead_letters) == 1


def test_wrong_options_are_named(engine: pylog.Engine) -> None:
    with pytest.raises(pylog.ConfigError, match="max_deliveries"):
        engine.queue("jobs", max_delivery=3)  # type: ignore[call-arg]
    with pytest.raises(pylog.ConfigError):
        engine.queue("jobs", dead_letter="jobs")
    with pytest.raises(TypeError):
        engine.queue("jobs", retry=3)  # type: ignore[arg-type]
    with pytest.raises(pylog.UnknownTopicError):
        engine.queue("others", topic="nowhere")
    with pytest.raises(pylog.ConfigError):
        engine.queue("../jobs")
    jobs = engine.queue("jobs", priorities=2)
    with pytest.raises(pylog.ConfigError):
        jobs.put(b"a", priority=2)
    with pytest.raises(pylog.ConfigError):
        jobs.put(b"a", delay=1.0, at=1)
    with pytest.raises(TypeError):
        jobs.put("text")


# ---- filters --------------------------------------------------------------------------------------------


def test_13c_a_queue_finishes_counts_and_routes_what_its_filter_rejects(opened: Opened) -> None:
    routed = []
    wanted = key_is(b"a") & ~header_is("kind", b"test") & field_is("n", 1)
    jobs = opened(filter=wanted, on_rejected=routed.append)
    jobs.put(b'{"n": 1}', key=b"a")
    jobs.put(b'{"n": 2}', key=b"a")
    jobs.put(b'{"n": 1}', key=b"b")
    jobs.put(b'{"n": 1}', key=b"a", headers={"kind": b"test"})
    assert values(jobs) == [b'{"n": 1}']
    assert [record.offset for record in routed] == [1, 2, 3]
    assert jobs.metrics()["filtered"] == 3
    assert jobs.join(0)


# ---- 15b, 19 --------------------------------------------------------------------------------------------


def test_15b_an_open_breaker_delivers_nothing_and_leaves_the_attempts(opened: Opened) -> None:
    breaker = pylog.CircuitBreaker(max_failures=2, reset_timeout=3600.0)
    jobs = opened(breaker=breaker, max_deliveries=9)
    jobs.put_many([b"a", b"b"])
    for _ in range(2):
        with pytest.raises(OSError), taken(jobs):
            raise OSError
    assert breaker.state == "open"
    assert jobs.get(0) is None
    assert jobs.get_many(10, 0) == []
    assert sum(entry.delivery_count for entry in jobs.peek()) == 2


def test_a_handlers_own_open_circuit_burns_no_attempt(opened: Opened) -> None:
    jobs = opened(max_deliveries=1)
    jobs.put(b"a")
    with pytest.raises(pylog.CircuitOpenError), taken(jobs):
        raise pylog.CircuitOpenError("open", retry_after=1.0)
    assert taken_count(jobs) == 1


def test_19a_one_topic_is_replayed_by_groups_and_worked_by_queues(engine: pylog.Engine) -> None:
    engine.create_topic("orders", partitions=2)
    engine.append_many("orders", [b"%d" % n for n in range(100)])
    shipping = engine.queue("shipping", topic="orders", retry=AT_ONCE)
    audit = engine.queue("audit", topic="orders", retry=AT_ONCE)
    with engine.consumer("orders", group="billing", auto_offset_reset="earliest", timeout=0) as consumer:
        assert len(list(consumer)) == 100
    assert sorted(values(shipping)) == sorted(b"%d" % n for n in range(100))
    with engine.consumer("orders", group="replay", auto_offset_reset="earliest", timeout=0) as consumer:
        assert len(list(consumer)) == 100
    assert audit.qsize() == 100
    assert sorted(values(audit)) == sorted(b"%d" % n for n in range(100))
    assert engine.queue("shipping").topic == "orders"


def test_19b_order_by_key_gives_one_record_of_a_key_at_a_time(opened: Opened) -> None:
    jobs = opened(order="key")
    for n in range(4):
        jobs.put(b"a%d" % n, key=b"a")
        jobs.put(b"b%d" % n, key=b"b")
    jobs.put(b"free")
    first = {delivery.value: delivery for delivery in jobs.get_many(100, 0)}
    assert set(first) == {b"a0", b"b0", b"free"}
    first[b"a0"].nack(3600.0)
    first[b"b0"].ack()
    first[b"free"].ack()
    assert values(jobs) == [b"b1", b"b2", b"b3"]
    assert jobs.qsize("blocked") == 3


# ---- what must not go wrong -----------------------------------------------------------------------------


def test_nack_without_an_error_is_no_error_to_give_up_on(opened: Opened) -> None:
    jobs = opened(retry=pylog.Retry.fixed(0.0, retry_on=OSError))
    jobs.put(b"a")
    taken(jobs).nack()
    assert taken_count(jobs) == 2
    assert len(jobs.dead_letters) == 0


def test_a_filter_that_raises_counts_as_an_attempt_and_ends_among_the_dead(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = opened(filter=where(lambda record: record.value[0] > 5), max_deliveries=2)
    jobs.put(b"")
    jobs.put(b"fine")
    assert values(jobs) == [b"fine"]
    (letter,) = jobs.dead_letters
    assert (letter.record.value, letter.exception) == (b"", "builtins.IndexError")
    assert "the filter of queue" in caplog.text


def test_a_filter_that_raises_counts_as_an_attempt_for_who_takes_many(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(record: pylog.Record) -> bool:
        raise LookupError

    jobs = opened(filter=where(fail), max_deliveries=3)
    jobs.put(b"a")
    assert jobs.get_many(10, 0) == []
    (letter,) = jobs.dead_letters
    assert (letter.reason, letter.attempts) == ("max_deliveries", 3)


def test_who_waits_is_back_in_time_though_much_is_expired_or_unwanted(opened: Opened) -> None:
    clock = ManualClock()
    refused = []

    def refuse(record: pylog.Record) -> None:
        refused.append(record)
        clock.now += 4.0

    jobs = opened(filter=key_is(b"wanted"), on_rejected=refuse, clock=clock)
    jobs.put_many([b"a"] * 10)
    assert jobs.get(timeout=10.0) is None
    assert len(refused) == 3
    jobs.put(b"b", key=b"wanted")
    assert values(jobs) == [b"b"]


def test_closing_gives_back_what_is_in_flight_here(engine: pylog.Engine) -> None:
    jobs, others = engine.queue("jobs"), engine.queue("jobs")
    jobs.put_many([b"a", b"b"])
    begun, (prefetched,) = taken(jobs), jobs.get_many(1, 0)
    jobs.close()
    assert others.get(0) is None  # nobody knows whose they are
    others.close()
    with pytest.raises(pylog.ClosedError):
        begun.ack()
    with engine.queue("jobs") as jobs:
        again = jobs.get_many(2, 0)
        assert [(delivery.value, delivery.delivery_count) for delivery in again] == [(b"a", 1), (b"b", 0)]
        assert jobs.ack_many(again) == []
    assert prefetched.value == b"b"


def test_a_delivery_that_is_dropped_is_with_who_waits(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    kept = jobs.get_many(1, 0)
    found: list[pylog.Delivery | None] = []
    waiting = threading.Thread(target=lambda: found.append(jobs.get()))
    waiting.start()
    kept.clear()
    waiting.join()
    (delivery,) = found
    assert delivery is not None
    with delivery:
        assert delivery.value == b"a"


def test_15b_a_breaker_that_opens_while_somebody_waits_lets_nothing_through(opened: Opened) -> None:
    breaker = pylog.CircuitBreaker(max_failures=1, reset_timeout=3600.0)
    jobs = opened(breaker=breaker)
    found: list[pylog.Delivery | None] = []
    waiting = threading.Thread(target=lambda: found.append(jobs.get(timeout=1.0)))
    entered = threading.Event()
    lease = jobs.source.lease

    def leasing(*args: Any, **options: Any) -> Any:
        entered.set()
        return lease(*args, **options)

    jobs.source.lease = leasing  # type: ignore[method-assign]
    waiting.start()
    entered.wait()
    breaker.fail(breaker.enter(), OSError())
    jobs.put(b"a")
    waiting.join()
    assert found == [None]
    assert [(entry.state, entry.delivery_count) for entry in jobs.peek()] == [("ready", 0)]


def test_15b_who_waits_for_a_trial_goes_on_where_it_was_dropped(opened: Opened) -> None:
    breaker = pylog.CircuitBreaker(max_failures=1, reset_timeout=0.0)
    jobs = opened(breaker=breaker)
    jobs.put(b"a")
    breaker.fail(breaker.enter(), OSError())
    trial = [taken(jobs)]
    found: list[pylog.Delivery | None] = []
    waiting = threading.Thread(target=lambda: found.append(jobs.get()))
    waiting.start()
    with pytest.warns(ResourceWarning, match="dropped"):
        trial.clear()
    waiting.join()
    (delivery,) = found
    assert delivery is not None
    delivery.ack()


def test_a_delivery_dropped_by_the_garbage_collector_waits_for_the_next_call(opened: Opened) -> None:
    jobs = opened()
    jobs.put(b"a")
    ring = [taken(jobs)]
    ring.append(ring)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del ring
        gc.collect()
    assert jobs.source.counts()[0].in_flight == 1
    assert taken_count(jobs) == 2


def test_a_dropped_trial_of_a_breaker_leaves_room_for_the_next(opened: Opened) -> None:
    breaker = pylog.CircuitBreaker(max_failures=1, reset_timeout=0.0)
    jobs = opened(breaker=breaker)
    jobs.put(b"a")
    taken(jobs).nack()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken(jobs)
    assert taken_count(jobs) == 3
    assert breaker.state == "closed"


def test_a_burial_that_fails_ends_nothing_and_stands_in_nobodys_way(
    engine: pylog.Engine, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    engine.create_topic("jobs.dlq", segment_bytes=16 << 10)
    jobs = opened(max_deliveries=1)
    jobs.put(bytes(100_000))
    delivery = taken(jobs)
    with pytest.raises(pylog.RecordTooLargeError):
        delivery.reject()
    assert not delivery.over
    with pytest.raises(OSError) as raised, delivery:  # its last attempt
        raise OSError
    assert "could not be given back" in raised.value.__notes__[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del delivery, raised
        gc.collect()
    jobs.put(b"next")
    assert values(jobs) == [b"next"]
    assert "is tried again in 60 s" in caplog.text
    assert jobs.qsize() == 1, "it is not lost"
