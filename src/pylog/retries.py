"""When to try again, and when not to try at all: Retry and CircuitBreaker.

Pure decisions: nothing sleeps here and nothing is called again; a queue makes the delay durable, whoever asks
otherwise waits by himself. The time and the dice are passed in, which the libraries for this do not allow.
Invariant: a delay is never longer than its schedule says, so that jitter only ever shortens it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from pylog.clock import Clock, SystemClock
from pylog.config import check_count, check_ratio, check_seconds
from pylog.errors import CircuitOpenError, ConfigError

T = TypeVar("T")
Errors = type[BaseException] | tuple[type[BaseException], ...]
GiveUp = Literal["max_attempts", "max_elapsed", "give_up_on"]
CircuitState = Literal["closed", "open", "half_open"]

LONGEST_DELAY = 1e9
"""Seconds: thirty years."""
MOST_FACTOR = 1e6


def check_errors(value: Errors, option: str) -> Errors:
    """Return `value` if isinstance() takes it; else TypeError now, and not when something failed."""
    for each in value if isinstance(value, tuple) else (value,):
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise TypeError(f"{option} is an exception class or a tuple of them, not {value!r}")
    return value


class Decision(NamedTuple):
    """What comes of a failed attempt."""

    delay: float | None
    """Seconds to wait before the next attempt; None: there is none."""
    reason: GiveUp | None
    """Why there is none."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failed attempt is repeated, after which delay. Made by exponential(), fixed() or list()."""

    delays: tuple[float, ...]
    """Seconds before the second attempt, the third, and so on; the last is repeated, times `factor`."""
    factor: float = 1.0
    max_delay: float = LONGEST_DELAY
    jitter: float = 0.0
    """The part of a delay that chance may take away: 0 none, 1 all of it."""
    max_attempts: int | None = None
    """Attempts in all, the first included."""
    max_elapsed: float | None = None
    """Seconds since the first attempt was possible after which nothing is tried again."""
    retry_on: Errors = Exception
    give_up_on: Errors = ()
    """Wins over retry_on."""
    dice: Callable[[], float] = field(default=random.random, repr=False, compare=False)
    """Returns a number from 0 up to 1."""

    def __post_init__(self) -> None:
        if not self.delays:
            raise ConfigError("a Retry has at least one delay")
        for name, delay in (*(("delay", delay) for delay in self.delays), ("max_delay", self.max_delay)):
            if check_seconds(delay, name) is None:
                raise ConfigError(f"{name} is a number of seconds: max_attempts= says when there is no more")
        if not 1 <= self.factor <= MOST_FACTOR:
            raise ConfigError(f"factor={self.factor} is out of range: 1 to {MOST_FACTOR:g} are allowed")
        check_ratio(self.jitter, "jitter")
        if self.max_attempts is not None:
            check_count(self.max_attempts, "max_attempts", 1, 65_535)
        check_seconds(self.max_elapsed, "max_elapsed")
        check_errors(self.retry_on, "retry_on")
        check_errors(self.give_up_on, "give_up_on")

    @classmethod
    def exponential(
        cls,
        first: float = 1.0,
        *,
        factor: float = 2.0,
        max_delay: float = 3600.0,
        jitter: float = 0.5,
        max_attempts: int | None = None,
        max_elapsed: float | None = None,
        retry_on: Errors = Exception,
        give_up_on: Errors = (),
        dice: Callable[[], float] = random.random,
    ) -> Retry:
        """Return the policy whose delays are first, first * factor, first * factor ** 2 and so on.

        Args:
            max_delay: The longest, however many attempts there were.
            jitter: The part of a delay that chance may take away, so that not all come back at once.
        """
        return cls((first,), factor, max_delay, jitter, max_attempts, max_elapsed, retry_on, give_up_on, dice)

    @classmethod
    def fixed(
        cls,
        delay: float,
        *,
        jitter: float = 0.0,
        max_attempts: int | None = None,
        max_elapsed: float | None = None,
        retry_on: Errors = Exception,
        give_up_on: Errors = (),
        dice: Callable[[], float] = random.random,
    ) -> Retry:
        """Return the policy that always waits equally long."""
        return cls(
            (delay,), 1.0, LONGEST_DELAY, jitter, max_attempts, max_elapsed, retry_on, give_up_on, dice
        )

    @classmethod
    def list(
        cls,
        delays: Sequence[float],
        *,
        jitter: float = 0.0,
        max_elapsed: float | None = None,
        retry_on: Errors = Exception,
        give_up_on: Errors = (),
        dice: Callable[[], float] = random.random,
    ) -> Retry:
        """Return the policy that waits as long as the list says and gives up where it ends."""
        attempts = len(delays) + 1
        return cls(
            tuple(delays), 1.0, LONGEST_DELAY, jitter, attempts, max_elapsed, retry_on, give_up_on, dice
        )

    def longest_delay(self, attempts: int) -> float:
        """Return the seconds to wait after so many attempts, before chance takes its part."""
        listed = len(self.delays)
        if attempts <= listed:
            return min(self.delays[attempts - 1], self.max_delay)
        try:
            return min(self.delays[-1] * self.factor ** (attempts - listed), self.max_delay)
        except OverflowError:
            return self.max_delay

    def decide(self, error: BaseException | None, attempts: int, elapsed: float) -> Decision:
        """Return what comes of an attempt that failed by `error`.

        Args:
            error: None where it is to be tried again for another reason, which is then not judged.
            attempts: How many there were, this one included.
            elapsed: Seconds since the first was possible.
        """
        if error is not None and (isinstance(error, self.give_up_on) or not isinstance(error, self.retry_on)):
            return Decision(None, "give_up_on")
        if self.max_attempts is not None and attempts >= self.max_attempts:
            return Decision(None, "max_attempts")
        delay = self.longest_delay(attempts) * (1 - self.jitter * self.dice())
        if self.max_elapsed is not None and elapsed + delay > self.max_elapsed:
            return Decision(None, "max_elapsed")
        return Decision(delay, None)


class Permit(NamedTuple):
    """That a call may be tried: what it comes to counts only as long as the breaker is in the same round."""

    round: int


class CircuitBreaker:
    """Stops calling what keeps failing, and tries one call after a while. Threads share it.

    Closed: calls go through, and `max_failures` failures in a row open it. Open: none goes through for
    `reset_timeout` seconds. Half open: one goes through, and what it comes to closes or opens the breaker.

    Args:
        exclude: Exceptions that say nothing about the health of what is called; they count as success.
    """

    def __init__(
        self,
        *,
        max_failures: int = 5,
        reset_timeout: float = 30.0,
        exclude: Errors = (),
        clock: Clock | None = None,
    ) -> None:
        self._most = check_count(max_failures, "max_failures", 1, 1 << 31)
        self._reset_timeout = check_seconds(reset_timeout, "reset_timeout") or 0.0
        self._exclude = check_errors(exclude, "exclude")
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._round = 0
        self._trying = False

    @property
    def state(self) -> CircuitState:
        """Return where it stands now."""
        with self._lock:
            if self._opened_at is None:
                return "closed"
            return "open" if self._closed_for() > 0 else "half_open"

    def _closed_for(self) -> float:
        """Return the seconds for which an opened breaker lets nothing through."""
        assert self._opened_at is not None
        return self._opened_at + self._reset_timeout - self._clock.monotonic()

    def enter(self) -> Permit:
        """Return the permit for one call; it is to be given to succeed(), fail() or leave().

        Raises:
            CircuitOpenError: `retry_after` says when it may go through; 0 while a trial is under way.
        """
        with self._lock:
            if self._opened_at is not None:
                left = self._closed_for()
                if left > 0:
                    raise CircuitOpenError(f"the circuit is open for {left:.3g} s more", retry_after=left)
                if self._trying:
                    raise CircuitOpenError("the circuit is half open, and a call is being tried")
                self._trying = True
            return Permit(self._round)

    def holds(self, permit: Permit) -> bool:
        """Return whether a call with the permit may still go through: the breaker has not turned since."""
        with self._lock:
            return permit.round == self._round

    def succeed(self, permit: Permit) -> None:
        """Note that the call went well: closes a half-open breaker."""
        with self._lock:
            if permit.round == self._round:
                self._failures = 0
                if self._opened_at is not None:
                    self._opened_at = None
                    self._turn()

    def fail(self, permit: Permit, error: BaseException | None = None) -> None:
        """Note that the call failed: opens a half-open breaker, and a closed one after max_failures."""
        if error is not None and isinstance(error, self._exclude):
            self.succeed(permit)
            return
        with self._lock:
            if permit.round != self._round:
                return
            self._failures += 1
            if self._opened_at is not None or self._failures >= self._most:
                self._opened_at = self._clock.monotonic()
                self._turn()

    def leave(self, permit: Permit) -> None:
        """Note that nothing was called, or that nothing is known of it."""
        with self._lock:
            if permit.round == self._round:
                self._trying = False

    def _turn(self) -> None:
        """Begin a round: calls that are still under way belong to the last one and say nothing any more."""
        self._round += 1
        self._failures = 0
        self._trying = False

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Let the block through, and note what it comes to. Raises CircuitOpenError."""
        permit = self.enter()
        try:
            yield
        except Exception as error:
            self.fail(permit, error)
            raise
        except BaseException:
            self.leave(permit)
            raise
        self.succeed(permit)

    def call(self, function: Callable[[], T]) -> T:
        """Call the function if the circuit lets it through. Raises CircuitOpenError."""
        with self.attempt():
            return function()
