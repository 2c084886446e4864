# cython: language_level=3, boundscheck=True, wraparound=True
"""Makes a partition ready for appends: acts on what survey.pyx found in its files.

Every step is repeatable: a process that dies in the middle leaves what the next one decides in the same way.
Invariant: nothing is served before it is on disk.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free

from logcore.batch_header cimport next_offset_of
from logcore.control cimport (
    PARTITION_POISONED, PARTITION_READY, PARTITION_UNRECOVERED, atomic_add, atomic_replace, atomic_store32,
    full_fence, partition_slot_t,
)
from logcore.failpoints cimport failpoint, planted
from logcore.format cimport *
from logcore.linux cimport (
    CLOCK_REALTIME, EOWNERDEAD, ETIMEDOUT, clock_ns, mutex_lock_within, pthread_mutex_consistent,
    pthread_mutex_unlock, write_all,
)
from logcore.partition_log cimport PartitionLog
from logcore.producers cimport ProducerTable
from logcore.scan cimport SCAN_BATCH, SCAN_END, SCAN_FOOTER, SegmentScan
from logcore.segment cimport FIRST_ALLOCATION, Segment, fill_footer, fill_segment_header

import os
import secrets

from logcore.dropping import remove_below_start
from logcore.errors import CorruptionError, DurabilityError, LockTimeoutError, PylogError
from logcore.scan import ScannedFooter, parse_segment_header
from logcore.segment_files import (
    SegmentFile, Start, list_segments, read_start, segment_file_name, write_start,
)
from logcore.survey import Published, Survey, open_scan, survey_files


class UnfinishedSegment:
    """A segment file under a temporary name: complete, but not yet part of the log."""

    def __init__(self, directory: str, temporary: str, name: str, salt: int, allocated: int) -> None:
        self.directory, self.temporary, self.name = directory, temporary, name
        self.salt, self.allocated = salt, allocated

    def publish(self) -> tuple[int, int]:
        """Rename it into place; its salt and its allocated bytes. Raises DiskFullError, OSError."""
        try:
            os.rename(f"{self.directory}/{self.temporary}", f"{self.directory}/{self.name}")
        except OSError as failure:
            from logcore.partition_log import raise_os_error
            raise_os_error(failure.errno, f"{self.directory}/{self.name}")
        return self.salt, self.allocated


def begin_segment(
    PartitionLog log, base_offset: int, epoch: int, base_byte_pos: int, synced_offset: int,
    named_epoch: int = 0
) -> UnfinishedSegment:
    """Make the file of a new segment, allocated and with both headers. Raises DiskFullError, OSError."""
    cdef uint8_t header[SEGMENT_HEADER_BYTES]
    salt = secrets.randbits(64)
    temporary = f"{secrets.token_hex(8)}.next"
    path = f"{log.directory}/{temporary}"
    fill_segment_header(
        header, salt, base_offset, epoch, log.partition, <const uint8_t*> <const char*> log.uuid,
        log.segment_bytes, clock_ns(CLOCK_REALTIME), base_byte_pos, synced_offset,
    )
    fd = -1
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.posix_fallocate(fd, 0, FIRST_ALLOCATION)
        os.pwrite(fd, header[:SEGMENT_HEADER_BYTES], 0)
        os.pwrite(fd, header[:SEGMENT_HEADER_BYTES], SEGMENT_HEADER_COPY)
    except OSError as failure:
        if fd >= 0:
            os.unlink(path)
        from logcore.partition_log import raise_os_error
        raise_os_error(failure.errno, path)
    finally:
        if fd >= 0:
            os.close(fd)
    return UnfinishedSegment(
        log.directory, temporary, segment_file_name(base_offset, named_epoch), salt, FIRST_ALLOCATION
    )


def producer_entries(PartitionLog log) -> bytes:
    """The producer table as footer entries: the last footer's and the active segment's batches."""
    cdef uint64_t position = log.slot.end - log.slot.active_base_byte_pos + SEGMENT_DATA_START
    return entries_of(log, producer_table(list_segments(log.directory)), position)


def entries_of(PartitionLog log, ProducerTable table, position: int) -> bytes:
    """As many entries of the table, the newest, as a footer at `position` has room for."""
    cdef int most = <int> ((log.segment_bytes - position - FOOTER_PRODUCERS) // PRODUCER_ENTRY_BYTES)
    most = min(most, min(table.count, <int> most_producers(log.segment_bytes)))
    cdef uint8_t* out = <uint8_t*> calloc(max(most, 1), PRODUCER_ENTRY_BYTES)
    if out is NULL:
        raise MemoryError()
    try:
        most = table.write_entries(out, most)
        return out[:most * PRODUCER_ENTRY_BYTES]
    finally:
        free(out)


def producer_table(segments: list[SegmentFile], end_position: int | None = None) -> ProducerTable:
    """Rebuild the producer table of a partition: one footer, and the batches behind it.

    `end_position` is where the last of the segments is to be cut.
    """
    cdef ProducerTable table = ProducerTable()
    cdef SegmentScan scan
    for segment in segments[-2:]:
        scan = open_scan(segment)
        if scan is None:
            continue
        while scan.step() != SCAN_END:
            if end_position is not None and segment is segments[-1] and scan.position >= end_position:
                break
            if scan.kind == SCAN_BATCH:
                table.note(scan.entry)
            elif scan.kind == SCAN_FOOTER:
                table.load_footer(scan.entry)
        scan.close()
    return table


def find_footer(segment: SegmentFile) -> ScannedFooter | None:
    """The footer of a sealed segment, None where none can be read."""
    cdef Segment indexed
    cdef SegmentScan scan = None
    try:
        scan = open_scan(segment)
        if scan is None:
            return None
        indexed = Segment(segment.path, segment.named_epoch)
        if indexed.load_index():             # so that not all of it has to be walked
            scan.seek(indexed.index[indexed.index_count - 1].position)
        while scan.step() != SCAN_END:
            if scan.kind == SCAN_FOOTER:
                return scan.footer()
        return None
    except (PylogError, OSError):            # damage: whoever reads there is told
        return None
    finally:
        if scan is not None:
            scan.close()


def write_footer(PartitionLog log, survey: Survey, flags: int) -> None:
    """Seal the surveyed segment at its end_position, on disk on return."""
    cdef bytes header = b""
    cdef uint64_t position = survey.end_position
    cdef int error
    segments = [segment for segment in list_segments(log.directory) if segment.path not in survey.leftovers]
    segments = segments[:segments.index(survey.segment) + 1]
    try:
        table = producer_table(segments, position)
    except (PylogError, OSError):            # the segment before is damaged: whoever reads there is told
        table = producer_table(segments[-1:], position)
    cdef bytes entries = entries_of(log, table, position)
    cdef bytearray whole = bytearray(FOOTER_PRODUCERS) + entries
    cdef uint8_t* footer = <uint8_t*> <char*> whole
    fd = os.open(survey.segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        for place in (0, SEGMENT_HEADER_COPY):
            header = os.pread(fd, SEGMENT_HEADER_BYTES, place)
            if parse_segment_header(header) is not None:
                break
        fill_footer(
            footer, <const uint8_t*> <const char*> header, survey.next_offset, position, 0,
            survey.max_timestamp,
            survey.synced_offset, flags, survey.next_epoch, clock_ns(CLOCK_REALTIME),
            len(entries) // PRODUCER_ENTRY_BYTES,
        )
        os.posix_fallocate(fd, 0, position + len(whole))
        error = write_all(fd, footer, len(whole), position)
        if error:
            raise OSError(error, os.strerror(error), survey.segment.path)
        os.fdatasync(fd)
    except OSError as failure:
        from logcore.partition_log import raise_os_error
        raise_os_error(failure.errno, survey.segment.path)
    finally:
        os.close(fd)


def clear_staged(survey: Survey, staged_end: int) -> None:
    """Zero what an append that was never acknowledged left behind the end."""
    fd = os.open(survey.segment.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        position = survey.end_position
        end = min(size, position + max(staged_end - survey.end, BATCH_HEADER_BYTES))
        zeros = bytes(1 << 16)
        while position < end:                     # in small writes: large ones make large folios (danger 14)
            position += os.pwrite(fd, zeros[:min(len(zeros), end - position)], position)
    finally:
        os.close(fd)


def sync_paths(*paths: str) -> None:
    """fsync files and directories; what cannot be synced is read from the disk by whoever tries next."""
    if planted("recovered_not_synced"):
        return
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            os.fsync(fd)
        except OSError:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            raise
        finally:
            os.close(fd)


cdef int take_sync_lock(PartitionLog log) except -1:
    """Keep the syncs of all processes away; the append lock is held. Raises LockTimeoutError."""
    cdef int64_t timeout_ns = log.lock_timeout_ns
    cdef int error
    with nogil:
        error = mutex_lock_within(&log.slot.sync_lock, timeout_ns)
    if error == EOWNERDEAD:
        pthread_mutex_consistent(&log.slot.sync_lock)
        atomic_store32(&log.slot.sync_waiters, 0)
    elif error == ETIMEDOUT:
        log.raise_sync_timeout()
    elif error:
        raise OSError(error, os.strerror(error), log.directory)
    return 0


cdef int give_sync_lock(PartitionLog log) except -1:
    pthread_mutex_unlock(&log.slot.sync_lock)
    atomic_add(&log.slot.sync_round, 1)        # whoever waits for a sync looks again
    return 0


def remove_unfinished(directory: str) -> None:
    """Unlink what dead processes left half made; the append lock says that nobody is at it."""
    for name in os.listdir(directory):
        if name.endswith((".next", ".tmp")):
            os.unlink(f"{directory}/{name}")


def write_pending(PartitionLog log) -> None:
    """Write what a transaction of a dead owner has for this partition."""
    from logcore import redo                 # redo.pyx stands above us
    redo.write_pending(log)


def recover_partition(PartitionLog log) -> None:
    """Make the partition ready for appends, if it is not poisoned; the append lock is held.

    Raises CorruptionError, DiskFullError, LockTimeoutError, OSError.
    """
    take_sync_lock(log)            # a sync that fails beside us would hide behind one of ours that succeeds
    try:
        if log.slot.state != PARTITION_POISONED:
            recover_unsynced(log)
    finally:
        give_sync_lock(log)


def recover_unsynced(PartitionLog log) -> None:
    """recover_partition() with both locks held."""
    cdef partition_slot_t* slot = log.slot
    known = slot.recovered != 0
    try:
        os.mkdir(log.directory, mode=0o700)
    except FileExistsError:
        pass
    sync_paths(os.path.dirname(log.directory))     # whoever made it may have died before its name was on disk
    write_pending(log)
    # what is staged belongs to `end` where `end` has reached it
    next_offset = slot.writing_next_offset if slot.writing_end == slot.end else slot.next_offset
    survey = survey_files(
        log.directory, same_boot=bool(slot.same_boot), identity=(log.uuid, log.partition),
        published=Published(slot.end, next_offset, slot.active_epoch) if known else None,
    )
    failpoint("recovery.surveyed")
    remove_unfinished(log.directory)
    if survey.segment is not None:
        if survey.outcome == "clear":
            clear_staged(survey, slot.writing_end)
        elif survey.outcome == "cut":
            write_footer(log, survey, FOOTER_CUT)
        failpoint("recovery.footer")
    for path in survey.leftovers:
        os.unlink(path)
    failpoint("recovery.leftovers")
    # the older may be just sealed; where it is no plain file, that is damage, and told to whoever reads it
    last = [segment.path for segment in list_segments(log.directory)[-2:]]
    sync_paths(*(path for path in last if os.path.isfile(path) and not os.path.islink(path)))
    if survey.outcome in ("first", "next", "cut"):
        begin_next(log, survey)
    sync_paths(log.directory)
    failpoint("recovery.synced")
    take_over(log, survey)
    remove_below_start(log)
    report(log, survey)


def begin_next(PartitionLog log, survey: Survey) -> None:
    """Begin the segment that follows what was surveyed, and make it the surveyed one."""
    cut = survey.next_epoch > survey.epoch
    if cut:
        began = (survey.next_epoch, survey.next_offset)
        if survey.start.epochs[-1] != began:       # else whoever recovered before us died behind this step
            survey.start = survey.start._replace(epochs=(*survey.start.epochs, began))
        write_start(log.directory, survey.start)
        failpoint("recovery.start")
    named_epoch = survey.next_epoch if cut else 0
    unfinished = begin_segment(
        log, survey.next_offset, survey.next_epoch, survey.end, survey.next_offset, named_epoch=named_epoch
    )
    unfinished.publish()
    failpoint("recovery.renamed")
    path = f"{log.directory}/{unfinished.name}"
    sync_paths(path)
    survey.segment = SegmentFile(survey.next_offset, named_epoch, path)
    with open(path, "rb") as file:
        survey.header = parse_segment_header(file.read(SEGMENT_HEADER_BYTES))
    survey.end_position = SEGMENT_DATA_START
    survey.epoch = survey.next_epoch


def take_over(PartitionLog log, survey: Survey) -> None:
    """Put what was surveyed, all of it on disk, into the slot."""
    cdef partition_slot_t* slot = log.slot
    atomic_store32(&slot.rolls, slot.rolls | 1)
    full_fence()
    slot.active_base_offset = survey.segment.base_offset
    slot.active_named_epoch = survey.segment.named_epoch
    slot.active_epoch = survey.epoch
    slot.active_base_byte_pos = survey.header.base_byte_pos
    slot.active_allocated = os.stat(survey.segment.path).st_size
    slot.active_salt = survey.header.salt
    slot.sealed_base_offset = -1
    slot.max_timestamp = survey.max_timestamp
    slot.log_start_offset = survey.start.log_start_offset
    before = [find_footer(segment) for segment in list_segments(log.directory)[-2:-1]]
    known = sum(footer.producer_count for footer in before if footer is not None)
    slot.producers = min(survey.producers + known, MAX_PRODUCERS_PER_PARTITION)
    slot.next_offset = survey.next_offset
    slot.writing_next_offset = survey.next_offset
    slot.end = slot.writing_end = survey.end
    slot.synced_offset = survey.next_offset
    slot.synced_end = survey.end
    slot.first_unsynced_at = 0
    full_fence()
    atomic_store32(&slot.rolls, (slot.rolls | 1) + 1)
    slot.recovered += 1
    slot.same_boot = 1
    atomic_replace(&slot.state, PARTITION_UNRECOVERED, PARTITION_READY)


def cut_poisoned(PartitionLog log) -> None:
    """Cut a partition whose sync failed at its synced offset and go on under a new epoch.

    What was published above is lost to everybody, which LogTruncatedError tells readers. Does nothing to a
    partition that is not poisoned. Raises DurabilityError where the disk still refuses, LockTimeoutError.
    """
    cdef partition_slot_t* slot = log.slot
    cdef int error
    with nogil:
        error = log.control.lock(log.partition, log.lock_timeout_ns)
    if error == EOWNERDEAD:
        log.control.lock_mended(log.partition)
    elif error:
        log.raise_lock_timeout()
    try:
        take_sync_lock(log)        # a sync that is under way would state an end that is no longer there
        try:
            if slot.state == PARTITION_POISONED:
                cut_at_mark(log)
        finally:
            give_sync_lock(log)
    except LockTimeoutError:
        raise
    except OSError as failure:
        raise DurabilityError(
            f"{log.topic}-{log.partition} cannot be cut, the disk still refuses: {failure}"
        ) from failure
    finally:
        log.control.unlock(log.partition)
        log.control.registry.ring_all()


def cut_at_mark(PartitionLog log) -> None:
    """cut_poisoned() with both locks held."""
    log.close_writer()
    survey = survey_at_mark(log)
    failpoint("cut.surveyed")
    write_footer(log, survey, FOOTER_CUT)
    for path in survey.leftovers:
        os.unlink(path)
    begin_next(log, survey)
    sync_paths(log.directory)
    log.slot.state = PARTITION_UNRECOVERED
    take_over(log, survey)
    report(log, survey)


def survey_at_mark(PartitionLog log) -> Survey:
    """The survey of a partition that is to be cut at its synced end."""
    cdef partition_slot_t* slot = log.slot
    survey = Survey(read_start(log.directory), outcome="cut", synced_offset=slot.synced_offset)
    survey.next_offset, survey.max_timestamp = slot.synced_offset, slot.max_timestamp
    survey.producers = slot.producers
    survey.epoch, survey.next_epoch = slot.active_epoch, slot.active_epoch + 1
    survey.dropped_bytes = slot.end - slot.synced_end
    for segment in reversed(list_segments(log.directory)):
        scan = open_scan(segment)
        header = None if scan is None else parse_segment_header(scan.header)
        if header is not None and header.base_byte_pos <= slot.synced_end:
            survey.segment, survey.header = segment, header
            survey.end_position = slot.synced_end - header.base_byte_pos + SEGMENT_DATA_START
            return survey
        survey.leftovers.append(segment.path)
    raise CorruptionError(f"{log.directory} has no segment below its synced end", path=log.directory)


def report(PartitionLog log, survey: Survey) -> None:
    """Keep what was dropped or found damaged for engine.recovery_reports()."""
    if survey.dropped_bytes or survey.damage:
        log.report = survey


def closed_clean(PartitionLog log) -> bool:
    """Whether whoever closed the topic last had all of it on disk."""
    from logcore.control import CLEAN_MARKER
    return os.path.exists(f"{os.path.dirname(log.directory)}/{CLEAN_MARKER}")


def synced_end(PartitionLog log, synced_offset: int) -> int:
    """Byte_pos at which the records below a durable mark end."""
    cdef SegmentScan scan
    for segment in reversed(list_segments(log.directory)):
        scan = open_scan(segment)
        header = None if scan is None else parse_segment_header(scan.header)
        if header is None or header.base_offset > synced_offset:
            continue
        position = SEGMENT_DATA_START
        while scan.step() != SCAN_END:
            if scan.kind == SCAN_BATCH and next_offset_of(scan.entry) > synced_offset:
                break
            position = scan.position + (scan.length if scan.kind == SCAN_BATCH else 0)
        scan.close()
        return header.base_byte_pos + position - SEGMENT_DATA_START
    return 0


def survey_partition(PartitionLog log) -> None:
    """Fill a private slot of a read-only opening by the same rules; writes nothing."""
    cdef partition_slot_t* slot = log.private_slot
    if slot is NULL:
        slot = log.private_slot = <partition_slot_t*> calloc(1, sizeof(partition_slot_t))
        if slot is NULL:
            raise MemoryError()
    if os.path.isdir(log.directory):
        survey = survey_files(log.directory, same_boot=True, identity=(log.uuid, log.partition))
    else:
        survey = Survey(Start(0, ((0, 0),)))
    slot.next_offset = slot.synced_offset = survey.next_offset
    slot.end = slot.synced_end = survey.end
    if survey.synced_offset < survey.next_offset and not closed_clean(log):
        slot.synced_offset, slot.synced_end = survey.synced_offset, synced_end(log, survey.synced_offset)
    slot.log_start_offset = survey.start.log_start_offset
    slot.max_timestamp = survey.max_timestamp
    slot.active_epoch = survey.epoch
    slot.recovered = 1
    slot.state = PARTITION_READY
    log.slot = slot
    report(log, survey)
