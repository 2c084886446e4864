"""Where a consumer stands in one partition: its reader, its position, and what happens when the log was cut.

Used by one thread. Invariant: `position` is the offset of the next record that the application is given, and
the reader is put back there whenever an interrupted call left it elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from logcore.segment_files import read_start
from logcore.topic_log import TopicLog
from pylog.embedded.reading import check_offset
from pylog.errors import ClosedError, LogTruncatedError, OffsetOutOfRangeError
from pylog.filters import Sieve
from pylog.records import Record, RecordBatch, TopicPartition

logger = logging.getLogger("pylog")

MOST_PASSED = 1 << 16
"""How many records a filter passes over before the consumer looks after its group."""


class PartitionCursor:
    """One assigned partition."""

    __slots__ = (
        "_on_truncate",
        "_reader",
        "_reset",
        "epoch",
        "log",
        "partition",
        "paused",
        "position",
        "sieve",
        "skipped",
        "synced",
        "unset",
    )

    def __init__(
        self,
        log: TopicLog,
        partition: int,
        *,
        committed: tuple[int, int] | None,
        reset: str,
        synced: bool,
        on_truncate: str | Callable[[TopicPartition, int, int], None],
        sieve: Sieve | None = None,
    ) -> None:
        self.log = log
        self.partition = partition
        self.synced = synced
        self.paused = False
        self.unset = False
        self.sieve = sieve
        # the last poll passed over records and let none through: there may be more
        self.skipped = False
        self._reset = reset
        self._on_truncate = on_truncate
        self.epoch = log.epoch(partition)
        self.position = 0
        if committed is None:
            self.reset(None)
        else:
            self.position = committed[0]
            self.follow_cut(committed[1], self.epoch)
            self.clamp()
        self._reader: Any = log.reader(partition, self.position, synced_only=synced)

    def reset(self, error: OffsetOutOfRangeError | None) -> None:
        """Take the position that auto_offset_reset says."""
        if self._reset == "latest":
            self.position = self.log.log_end_offset(self.partition)
        elif self._reset == "earliest":
            self.position = self.log.log_start_offset(self.partition)
        elif error is not None:
            raise error
        else:
            # raised at the first poll, so that a seek may come before it
            self.position = self.log.log_start_offset(self.partition)
            self.unset = True

    def clamp(self) -> None:
        """Bring a committed offset that the log does not have back into it."""
        first, end = self.log.log_start_offset(self.partition), self.log.log_end_offset(self.partition)
        if self.position > end:
            # the commit reached the disk, the records behind it did not
            self.truncated(end, self.epoch)
        elif self.position < first:
            self.reset(
                OffsetOutOfRangeError(
                    f"committed offset {self.position} of {self.name} is outside [{first}, {end}]: seek, or "
                    'give auto_offset_reset="earliest" or "latest"',
                    offset=self.position,
                    log_start_offset=first,
                    log_end_offset=end,
                )
            )

    @property
    def name(self) -> str:
        """Return topic-partition, for people."""
        return f"{self.log.name}-{self.partition}"

    @property
    def place(self) -> TopicPartition:
        """Return the partition."""
        return TopicPartition(self.log.name, self.partition)

    def follow_cut(self, known: int, now: int) -> None:
        """Go back to where the log was cut, if we are beyond; `known` is the epoch that we read last."""
        if known == now:
            return
        newer = read_start(f"{self.log.directory}/{self.partition}").newer_epoch(known)
        self.epoch = now
        if newer is not None and newer[1] < self.position:
            self.truncated(newer[1], now)

    def truncated(self, resume: int, epoch: int) -> None:
        """Records up to our position are gone: go on at `resume`, in the way that the user chose."""
        message = (
            f"{self.name} was cut at offset {resume} by a power cut or a failed sync: "
            f"what stood at {resume} to {self.position - 1} is gone"
        )
        if self._on_truncate == "raise":
            raise LogTruncatedError(message, offset=self.position, resume_offset=resume, epoch=epoch)
        logger.warning("%s; reading goes on there", message)
        before, self.position = self.position, resume
        if callable(self._on_truncate):
            self._on_truncate(self.place, before, resume)

    def follow(self, log: TopicLog) -> None:
        """Read-only: go on in the same topic as its writers of now share it."""
        if log.uuid != self.log.uuid:
            raise ClosedError(f"topic {log.name!r} was deleted and made anew")
        self.log = log
        self.follow_cut(self.epoch, log.epoch(self.partition))
        end = log.log_end_offset(self.partition)
        if self.position > end:
            self.truncated(end, self.epoch)
        self._reader = log.reader(self.partition, self.position, synced_only=self.synced)

    def seek(self, offset: int) -> None:
        """Go to an offset of the log."""
        self._reader.seek(check_offset(self.log, self.partition, offset))
        self.position = offset
        self.epoch = self.log.epoch(self.partition)
        self.unset = False

    def prepare(self) -> None:
        """Put the reader where the application stands, and see whether the log was cut."""
        if self.unset:
            raise OffsetOutOfRangeError(
                f'{self.name} has no committed offset, and auto_offset_reset is "error": seek first',
                offset=-1,
                log_start_offset=self.log.log_start_offset(self.partition),
                log_end_offset=self.log.log_end_offset(self.partition),
            )
        epoch = self.log.epoch(self.partition)
        if epoch != self.epoch:
            self.follow_cut(self.epoch, epoch)
            self._reader = self.log.reader(self.partition, self.position, synced_only=self.synced)
        if self._reader.offset != self.position:
            self._reader.seek(self.position)

    def poll(self, max_records: int) -> list[Record]:
        """Return up to max_records that are there, and stand behind them."""
        if self.sieve is not None:
            return self._sifted(self.sieve, max_records)
        records: list[Record] = self._read(lambda: self._reader.poll(max_records))
        return records

    def _sifted(self, sieve: Sieve, max_records: int) -> list[Record]:
        """Return what the sieve lets through of what comes next; stands where it was if the sieve raises."""
        before = self.position
        rejected = self._reader.rejected
        self.skipped = False
        try:
            records = self._read(
                lambda: self._reader.poll_matching(sieve.matcher, max_records, MOST_PASSED)
            )
            kept = sieve.keep(records, self._reader.rejected - rejected)
        except BaseException:
            self.position = before
            raise
        self.skipped = not kept and self.position != before
        return kept

    def next_batch(self) -> RecordBatch | None:
        """Return the batch that holds the position, whole, or None where there is none yet."""
        batch: RecordBatch | None = self._read(lambda: self._reader.next_batch())
        return batch

    def _read(self, read: Callable[[], Any]) -> Any:
        """Read from the position, or from where auto_offset_reset says if that was deleted."""
        try:
            self.prepare()
            found = read()
        except OffsetOutOfRangeError as error:
            if self.unset:
                raise
            self.reset(error)
            self._reader.seek(self.position)
            found = read()
        self.position = self._reader.offset
        return found

    def offset_for_time(self, timestamp: int) -> int | None:
        """Return the first offset with a timestamp at or after `timestamp` ns, None where there is none."""
        found: int | None = self._reader.offset_for_time(timestamp)
        return found
