# cython: language_level=3
"""TopicLeases: the leases of one topic's records, taken from its partitions without a Python frame.

It neither opens a table nor waits for a record: that is the subclass's. Invariant: what was leased is
returned, also where the next partition fails.
"""

from libc.stdint cimport int64_t

from logcore.deliveries cimport DeliveryTable, Lease
from logcore.lease_feed cimport LeaseFeed

from logcore.errors import ClosedError


cdef class TopicLeases:
    """What is leased and finished of a topic, by level and, within a level, from its partitions in turn.

    A subclass gives `_lease(max_records, timeout, start)` for what is not at hand, `_feed(partition)` to open
    one, `_bury(table)` for what dead processes have, `_change(lease, what)` for a lease that cannot be
    finished, `_check_open()`, and `_expect_flush()`, called whenever `_expects_flush` is not set.
    """

    def _begin_anew(self, partitions: int, levels: int, clock: object = None) -> None:
        """Know no feed. `clock`: gives the wall clock's time; the machine's where left out."""
        self.feeds = [None] * partitions
        self.levels, self.band = levels, partitions // levels
        self.turn = 0
        self.clock = clock
        self._expects_flush = False

    def _grown(self, partitions: int) -> None:
        """The topic has more partitions now: lease from them too. With levels it would move these."""
        self.feeds += [None] * (partitions - len(self.feeds))
        self.band = partitions // self.levels

    def _opened(self) -> list:
        """The feeds that are open."""
        return [feed for feed in self.feeds if feed is not None]

    def _known(self, partition: int) -> LeaseFeed | None:
        """The feed of a partition, None where it was not opened yet."""
        return self.feeds[partition]

    def _know(self, partition: int, feed: LeaseFeed) -> None:
        """Lease from a partition by this feed from now on."""
        self.feeds[partition] = feed

    def _next_turn(self) -> int:
        """A number that is another one each time."""
        self.turn += 1
        return self.turn

    # ---- leasing --------------------------------------------------------------------------------------

    def lease(self, max_records: int = 1, timeout: float | None = 0.0, *, start: bool = True) -> list:
        """Return up to max_records leases, waiting up to timeout seconds (None: for ever) for the first."""
        cdef list found = None
        if type(max_records) is int and 0 < max_records <= MOST_LEASES:
            found = self.take(max_records, start)
        if not found:
            found = self._lease(max_records, timeout, start)
            if not found:
                return []
        self.note_leased(len(found))
        return found

    cdef list take(self, int most, bint start):
        if self.levels != 1:
            return None
        try:
            return self.take_level(0, most, 0 if self.clock is None else self.clock.time_ns(), start)
        except ClosedError:                      # or this is a forked child
            return None

    def _take_level(self, level: int, most: int, now: int, start: bool) -> list:
        """Lease up to `most` records of a level that are ready at `now` (wall clock, ns)."""
        return self.take_level(level, most, now, start)

    cdef list take_level(self, int level, int most, int64_t now, bint start):
        cdef list found = None, more
        cdef LeaseFeed feed
        cdef int i, partition = 0
        if self.band > 1:
            self.turn += 1
        for i in range(self.band):
            if self.band > 1:
                partition = level * self.band + <int> ((self.turn + i) % self.band)
            else:
                partition = level
            known = self.feeds[partition]
            feed = <LeaseFeed> known if known is not None else self._feed(partition)
            if not feed.has_some():
                continue
            try:
                more = feed.take(most if found is None else most - len(found), now, start)
                if feed.table.dead_seen:
                    self._bury(feed.table)
            except Exception:
                if found is None:
                    raise
                return found                     # the error will come again
            if found is None:
                found = more
            else:
                found += more
            if len(found) >= most:
                break
        return [] if found is None else found

    cdef int note_leased(self, Py_ssize_t count) except -1:
        self.leased += count
        if not self._expects_flush:
            self._expect_flush()
        return 0

    # ---- finishing ------------------------------------------------------------------------------------

    def ack(self, lease: object) -> None:
        """Finish a record: it is never delivered again (but see sync())."""
        self.finish(lease)

    cdef int finish(self, object lease) except -1:
        cdef bint kept = False
        try:
            if type(lease) is Lease:
                kept = (<Lease> lease).table.finish_held(<Lease> lease)
        except ClosedError:                      # or it was leased before a fork
            pass
        if not kept:
            self._change(lease, "ack")           # says what is wrong
        elif not self._expects_flush:
            self._expect_flush()
        self.acked += 1
        return 0

    def ack_many(self, leases: object) -> list:
        """Finish many by a few native calls; returns those whose lease was lost, the others are finished."""
        cdef list given = list(leases), lost = []
        cdef dict groups = {}
        cdef bint together = True
        self._check_open()
        for lease in given:
            if type(lease) is not Lease:
                raise TypeError(f"expected leases of this queue, not {type(lease).__name__}")
            together = together and (<Lease> lease).table is (<Lease> given[0]).table
        if together and given:
            groups[(<Lease> given[0]).table] = given
        else:
            for lease in given:
                groups.setdefault((<Lease> lease).table, []).append(lease)
        for table, group in groups.items():
            try:
                lost += (<DeliveryTable> table).ack_many(group)
            except ClosedError:
                lost += group
        self.acked += len(given) - len(lost)
        self._lost += len(lost)
        if given and not self._expects_flush:
            self._expect_flush()
        return lost

    def _counted(self) -> dict:
        """How many were leased, acked, nacked, released and lost."""
        return {
            "leased": self.leased, "acked": self.acked, "nacked": self._nacked, "released": self._released,
            "lost": self._lost,
        }
