"""Retry and CircuitBreaker alone (pattern 15): the whole schedule in no time, by a clock moved by hand."""

from __future__ import annotations

import contextlib
import threading

import pytest
from clocks import ManualClock
from hypothesis import given
from hypothesis import strategies as st

import pylog
from pylog.retries import CircuitBreaker, Permit, Retry


class DatabaseDownError(Exception):
    pass


def delays(retry: Retry, count: int = 50) -> list[float]:
    """Return the delays after failures that follow one another, until the policy gives up."""
    found, elapsed = [], 0.0
    for attempts in range(1, count + 1):
        delay = retry.decide(DatabaseDownError(), attempts, elapsed).delay
        if delay is None:
            break
        found.append(delay)
        elapsed += delay
    return found


def test_15d_exponential_delays_double_up_to_the_longest() -> None:
    retry = Retry.exponential(1.0, max_delay=10.0, jitter=0.0, max_attempts=7)
    assert delays(retry) == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_15d_a_list_is_followed_and_ends() -> None:
    assert delays(Retry.list([1, 5, 30])) == [1, 5, 30]


def test_15d_a_fixed_delay_goes_on_for_ever() -> None:
    assert delays(Retry.fixed(2.5), 100) == [2.5] * 100


def test_15d_no_attempt_is_made_that_would_come_after_max_elapsed() -> None:
    assert delays(Retry.exponential(1.0, jitter=0.0, max_elapsed=7.5)) == [1.0, 2.0, 4.0]


def test_the_reason_of_giving_up_is_told() -> None:
    error = DatabaseDownError()
    assert Retry.fixed(1, max_attempts=2).decide(error, 2, 0.0) == (None, "max_attempts")
    assert Retry.fixed(1, max_elapsed=5).decide(error, 1, 4.5) == (None, "max_elapsed")
    assert Retry.fixed(1, give_up_on=DatabaseDownError).decide(error, 1, 0.0) == (None, "give_up_on")
    assert Retry.fixed(1, retry_on=OSError).decide(error, 1, 0.0) == (None, "give_up_on")
    assert Retry.fixed(1, retry_on=Exception).decide(error, 1, 0.0) == (1, None)


def test_giving_up_on_an_error_wins_over_retrying_on_its_parent() -> None:
    retry = Retry.fixed(1, retry_on=OSError, give_up_on=(PermissionError, FileNotFoundError))
    assert retry.decide(FileNotFoundError(), 1, 0.0).delay is None
    assert retry.decide(ConnectionResetError(), 1, 0.0).delay == 1


@given(
    first=st.floats(0, 1e6),
    factor=st.floats(1, 100),
    most=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    dice=st.floats(0, 1, exclude_max=True),
    attempts=st.integers(1, 65_535),
)
def test_jitter_only_ever_shortens_a_delay_and_nothing_overflows(
    first: float, factor: float, most: float, jitter: float, dice: float, attempts: int
) -> None:
    retry = Retry.exponential(first, factor=factor, max_delay=most, jitter=jitter, dice=lambda: dice)
    longest = retry.longest_delay(attempts)
    delay = retry.decide(DatabaseDownError(), attempts, 0.0).delay
    assert delay is not None
    assert longest * (1 - jitter) * (1 - 1e-9) <= delay <= longest <= most


def test_what_is_no_exception_is_refused_before_something_failed() -> None:
    for wrong in ([ValueError], "ValueError", ValueError(), (ValueError, 7)):
        with pytest.raises(TypeError, match="retry_on"):
            Retry.fixed(1.0, retry_on=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="give_up_on"):
            Retry.list([1.0], give_up_on=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="exclude"):
            CircuitBreaker(exclude=wrong)  # type: ignore[arg-type]


def test_a_policy_that_makes_no_sense_is_refused() -> None:
    for factor in (0.5, float("inf"), float("nan")):
        with pytest.raises(pylog.ConfigError, match="factor"):
            Retry.exponential(0.0, factor=factor)
    for wrong in (
        lambda: Retry.fixed(-1),
        lambda: Retry.exponential(factor=0.5),
        lambda: Retry.exponential(jitter=2),
        lambda: Retry.fixed(1, max_attempts=0),
        lambda: Retry.list([1, float("nan")]),
    ):
        with pytest.raises(pylog.ConfigError):
            wrong()
    assert delays(Retry.list([1])) == [1]
    with pytest.raises(pylog.ConfigError):
        Retry.list([])


# ---- the circuit breaker --------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breaker(clock: ManualClock) -> CircuitBreaker:
    return CircuitBreaker(max_failures=3, reset_timeout=30.0, exclude=KeyError, clock=clock)


def fail(breaker: CircuitBreaker, times: int = 1, error: type[Exception] = DatabaseDownError) -> None:
    def call() -> None:
        raise error

    for _ in range(times):
        with pytest.raises(error):
            breaker.call(call)


def test_failures_in_a_row_open_the_breaker_and_nothing_is_called_any_more(breaker: CircuitBreaker) -> None:
    called: list[int] = []
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker)
    assert breaker.state == "open"
    with pytest.raises(pylog.CircuitOpenError) as refused:
        breaker.call(lambda: called.append(1))
    assert refused.value.retry_after == 30.0
    assert called == []


def test_a_success_in_between_starts_the_count_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert breaker.call(lambda: "done") == "done"
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_a_trial_that_goes_well_closes_the_breaker(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 3)
    clock.now += 30.0
    assert breaker.state == "half_open"
    breaker.call(lambda: None)
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_a_trial_that_fails_opens_it_for_the_whole_time_again(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    fail(breaker, 3)
    clock.now += 30.0
    fail(breaker)
    clock.now += 29.0
    assert breaker.state == "open"
    clock.now += 1.0
    assert breaker.state == "half_open"


def test_one_call_is_tried_at_a_time(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 3)
    clock.now += 30.0
    trial = breaker.enter()
    with pytest.raises(pylog.CircuitOpenError) as refused:
        breaker.enter()
    assert refused.value.retry_after == 0.0
    breaker.leave(trial)
    breaker.succeed(breaker.enter())
    assert breaker.state == "closed"


def test_a_call_of_an_earlier_round_says_nothing_any_more(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    slow: Permit = breaker.enter()
    fail(breaker, 3)
    breaker.succeed(slow)
    assert breaker.state == "open"
    clock.now += 30.0
    trial = breaker.enter()
    breaker.fail(slow)
    assert breaker.state == "half_open"
    breaker.succeed(trial)
    assert breaker.state == "closed"


def test_an_excluded_error_is_no_failure(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    fail(breaker, 1, KeyError)
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_an_interrupt_is_neither_success_nor_failure(breaker: CircuitBreaker, clock: ManualClock) -> None:
    fail(breaker, 3)
    clock.now += 30.0
    with pytest.raises(KeyboardInterrupt), breaker.attempt():
        raise KeyboardInterrupt
    assert breaker.state == "half_open"
    breaker.call(lambda: None)
    assert breaker.state == "closed"


def test_threads_share_a_breaker_and_one_of_them_gets_the_trial(
    breaker: CircuitBreaker, clock: ManualClock
) -> None:
    fail(breaker, 3)
    clock.now += 30.0
    entered: list[Permit] = []
    together = threading.Barrier(8)

    def enter() -> None:
        together.wait()
        with contextlib.suppress(pylog.CircuitOpenError):
            entered.append(breaker.enter())

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 1
