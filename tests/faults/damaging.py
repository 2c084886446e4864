"""A data directory, damaged in one place at a time, and what became of its records. Jobs of a Zygote.

Damage is chosen by a seed and a number, so that a failure can be had again. What may be lost is told by the
oracle from the sound file; that nothing else is lost, changed or passed over in silence is what check() says.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import oracle

import pylog
from pylog.engine import Engine
from pylog.errors import CorruptionError, PylogError

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import damage

TOPICS = {"plain": 2, "packed": 1}
GROUP = "g"
STATIC: Any = {"group": GROUP, "group_instance_id": "one", "auto_offset_reset": "earliest"}
SEGMENT_BYTES = 16 << 10
SECONDS_EACH = 40
WAYS = ["flip"] * 10 + ["truncate", "truncate", "zero", "swap", "garbage", "replace", "replace"]
OTHER_WAYS = [*WAYS, *["replace"] * 10]
Content = tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
Place = tuple[str, int]
Truth = dict[Place, dict[int, Content]]


# ---- the sound directory ----------------------------------------------------------------------------------


def make_sound(directory: str, old: str) -> None:
    """Make a directory of sealed and active segments in two epochs; `old` is a copy of its past."""
    with pylog.open(directory) as engine:
        for topic, partitions in TOPICS.items():
            codec: Any = "zstd" if topic == "packed" else "none"
            engine.create_topic(
                topic, partitions=partitions, segment_bytes=SEGMENT_BYTES, compression_type=codec
            )
        fill(engine, 70)
    shutil.copytree(directory, old)
    for topic in TOPICS:  # as after a power cut: the log goes on under the next epoch
        for name in ("control", "clean"):
            (Path(directory) / "topics" / topic / name).unlink()
    with pylog.open(directory) as engine:
        fill(engine, 20)
        engine.producer(producer_id="loader").close()
        # a static member, so that its place in the group is still there when it has left
        with engine.consumer("plain", **STATIC) as consumer:
            assert consumer.poll(10, timeout=10.0)
            consumer.commit()


def fill(engine: Engine, batches: int) -> None:
    rng = random.Random(batches)
    for number in range(batches):
        count = rng.choice([1, 1, 3])
        headers = [[("n", b"%d" % number)]] * count if number % 5 == 0 else None
        for topic, partitions in TOPICS.items():
            values = [rng.randbytes(rng.choice([0, 20, 300])) for _ in range(count)]
            keys = [b"key-%d" % number] * count if number % 2 else None
            engine.append_many(topic, values, keys, partition=number % 5 % partitions, headers=headers)


def places() -> Iterator[Place]:
    for topic, partitions in TOPICS.items():
        yield from ((topic, partition) for partition in range(partitions))


def content_of(record: pylog.Record) -> Content:
    return record.timestamp, record.key, record.value, tuple(record.headers)


# ---- damage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """One change to one file. `lost` has the offsets that it may cost, None: all of the partition."""

    path: Path
    what: str
    places: tuple[Place, ...] = ()
    lost: range | None = range(0)
    silent: bool = False  # a log that ends earlier without a trace is a shorter log

    def may_lose(self, place: Place, offset: int) -> bool:
        return place in self.places and (self.lost is None or offset in self.lost)


class Damager:
    """Applies numbered damage to copies of the sound directory."""

    def __init__(self, sound: Path, old: Path, work: Path) -> None:
        self.sound, self.old, self.work = sound, old, work
        self.files = sorted(path for path in sound.rglob("*") if path.is_file())
        self.bytes = {path: path.read_bytes() for path in self.files}
        self.segments = {
            path: oracle.parse_segment(data) for path, data in self.bytes.items() if path.suffix == ".log"
        }
        self.others = [path for path in self.files if path not in self.segments]
        active = {place: max(self.segments_of(place)) for place in places()}
        self.active = set(active.values())
        self.hurt: Path | None = None

    def segments_of(self, place: Place) -> list[Path]:
        directory = self.sound / "topics" / place[0] / str(place[1])
        return sorted(path for path in self.segments if path.parent == directory)

    def undo(self, *, written: bool) -> None:
        """Make the directory sound again; where nobody wrote, only one file has to be put back."""
        if written or self.hurt is None:
            shutil.rmtree(self.work, ignore_errors=True)
            shutil.copytree(self.sound, self.work)
        else:
            target = self.work / self.hurt.relative_to(self.sound)
            if target.is_dir():
                target.rmdir()
            else:
                target.unlink(missing_ok=True)
            target.write_bytes(self.bytes[self.hurt])

    def apply(self, rng: random.Random, number: int) -> Damage:
        """Put damage number `number` into the sound directory."""
        path = rng.choice(self.others if number % 3 == 0 else list(self.segments))
        target = self.work / path.relative_to(self.sound)
        self.hurt = path
        way = rng.choice(WAYS if path in self.segments else OTHER_WAYS)
        data = self.bytes[path]
        if way == "replace" or not data:
            return self.replace(path, target, rng)
        # what is in use, more often than the free end of the file
        used = self.segments[path].end_position if path in self.segments and rng.random() < 0.9 else len(data)
        at = rng.randrange(used)
        if way == "flip":
            target.write_bytes(damage.flip_byte(data, at, rng.randrange(1, 256)))
            return self.damaged(path, f"flip at {at}", self.batch_at(path, at))
        if way == "truncate":
            hurt = damage.truncate(data, at)
        elif way == "zero":
            hurt = damage.zero_page(data, at)
        elif way == "swap":
            hurt = damage.swap_pages(data, at, rng.randrange(len(data)))
        else:
            hurt = damage.garbage_tail(data, at, rng.getrandbits(32))
        target.write_bytes(hurt)
        return self.damaged(path, f"{way} at {at}", self.offsets_of(path), end_is_gone(hurt))

    def replace(self, path: Path, target: Path, rng: random.Random) -> Damage:
        """Take a file away, or put another thing in its place."""
        what = rng.choice(["missing", "empty", "another", "old", "directory", "link", "pipe"])
        target.unlink()
        alike = [other for other in self.files if other.suffix == path.suffix and other.name == path.name] + [
            other for other in self.files if other.suffix == path.suffix
        ]
        other = rng.choice(alike)
        before = self.old / path.relative_to(self.sound)
        if what == "empty":
            target.touch()
        elif what == "another":
            target.write_bytes(self.bytes[other])
            what += f", {other.relative_to(self.sound)}"
        elif what == "old" and before.exists():
            target.write_bytes(before.read_bytes())
        elif what == "directory":
            target.mkdir()
        elif what == "link":
            target.symlink_to(other)
        elif what == "pipe":
            os.mkfifo(target)
        whole = path in self.active and what != "old"
        return self.damaged(path, what, None if whole else self.offsets_of(path), path in self.active)

    def damaged(self, path: Path, what: str, lost: range | None, gone: bool = False) -> Damage:
        """Say what damage to `path` may cost."""
        relative = path.relative_to(self.sound)
        of_topic = relative.parts[1] if relative.parts[0] == "topics" else ""
        if path in self.segments:
            place = (of_topic, int(relative.parts[2]))
            if path in self.active and self.header_is_hurt(path):
                lost = None
            return Damage(relative, what, (place,), lost, path in self.active and gone)
        if path.name == "start":
            return Damage(relative, what, ((of_topic, int(relative.parts[2])),), None)
        if path.name == "topic.json":
            return Damage(relative, what, tuple(place for place in places() if place[0] == of_topic), None)
        if relative.parts[0] in ("format", "lock", "processes") or path.name in ("control", "clean"):
            return Damage(relative, what, tuple(places()), None)
        return Damage(relative, what)

    def header_is_hurt(self, path: Path) -> bool:
        """Whether both copies of the header are gone, so that the end of the log cannot be told."""
        target = self.work / path.relative_to(self.sound)
        data = target.read_bytes() if target.is_file() else b""
        for at in oracle.HEADER_COPIES:
            try:
                oracle.parse_segment_header(data[at : at + 128])
                return False
            except oracle.BrokenError:
                continue
        return True

    def offsets_of(self, path: Path) -> range:
        """The offsets that a segment holds."""
        if path not in self.segments:
            return range(0)
        segment = self.segments[path]
        batches = segment.batches
        base = segment.header.base_offset
        return range(base, batches[-1].next_offset if batches else base)

    def batch_at(self, path: Path, at: int) -> range:
        """The offsets of the batch that has the byte at `at`."""
        for batch in self.segments[path].batches if path in self.segments else ():
            if batch.position <= at < batch.position + batch.total_length:
                return range(batch.base_offset, batch.next_offset)
        return range(0)


def end_is_gone(data: bytes) -> bool:
    """Whether only zeros stand behind the last thing that can be read, as in an active segment."""
    try:
        return not any(data[oracle.parse_segment(data).end_position :])
    except oracle.BrokenError:
        return not any(data)


# ---- what became of the records ---------------------------------------------------------------------------


class Reading:
    """What could be read of a directory, and what was said of the rest."""

    def __init__(self) -> None:
        self.records: Truth = {place: {} for place in places()}
        self.told: dict[Place, list[range]] = {place: [] for place in places()}
        self.refused: dict[Place, str] = {}
        self.appended = 0

    def read(self, engine: Engine, place: Place) -> None:
        """Read a partition to its end, going on behind damage as its error says."""
        topic, partition = place
        try:
            at, end = engine.log_start_offset(topic, partition), engine.log_end_offset(topic, partition)
        except PylogError as error:
            self.refused[place] = repr(error)
            return
        while at < end:
            try:
                for record in engine.read(topic, partition, at):
                    assert record.offset >= at, f"{record.offset} again"
                    self.records[place][record.offset] = content_of(record)
                    at = record.offset + 1
                assert at >= end, f"{place}: reading ends in silence at {at} of {end}"
            except CorruptionError as error:
                assert at <= error.first_offset < error.next_offset, f"{place} at {at}: {error!r}"
                self.told[place].append(range(error.first_offset, error.next_offset))
                at = error.next_offset

    def take_reports(self, engine: Engine) -> None:
        for report in engine.recovery_reports():
            place = (report.topic, report.partition)
            self.told[place] += [range(found.first_offset, found.next_offset) for found in report.damage]
            if report.dropped_bytes:
                self.told[place].append(range(report.log_end_offset, 1 << 62))


def read_directory(directory: Path, *, read_only: bool) -> Reading:
    """Read all that can be read; append where that is possible and see it again."""
    reading = Reading()
    try:
        engine = pylog.open(directory, read_only=read_only, create=False)
    except PylogError as error:
        reading.refused = dict.fromkeys(places(), repr(error))
        return reading
    try:
        for place in places():
            reading.read(engine, place)
        reading.take_reports(engine)
        for topic, partition in places():
            if not read_only and (topic, partition) not in reading.refused:
                offset = engine.append(topic, b"probe", partition=partition).offset
                assert [r.value for r in engine.read(topic, partition, offset)] == [b"probe"]
                reading.appended += 1
        check_commit(engine)
    finally:
        try:
            engine.close()
        except PylogError as error:
            reading.refused |= dict.fromkeys(places(), repr(error))
    return reading


def check_commit(engine: Engine) -> None:
    """A committed offset is the one that was committed, an older one, or a named error; so is joining."""
    try:
        with engine.consumer(group=GROUP) as consumer:
            committed = consumer.committed(("plain", 0))
        assert committed is None or 0 < committed <= 10, f"committed is {committed}"
        with engine.consumer("plain", **STATIC) as consumer:
            consumer.poll(10)
            assert consumer.assignment(), "the only member has nothing"
    except PylogError:
        pass


def check(damage: Damage, truth: Truth, reading: Reading) -> None:
    """Raise AssertionError where something was invented, lost beyond the damage, or lost in silence."""
    for place, sound in truth.items():
        found = reading.records[place]
        for offset, content in found.items():
            assert offset in sound, f"{place}: {offset} was never written"
            assert content == sound[offset], f"{place}: {offset} is another record"
        for offset in sound.keys() - found.keys():
            assert damage.may_lose(place, offset), f"{place}: {offset} is lost, {reading.told[place]}"
            told = place in reading.refused or any(offset in known for known in reading.told[place])
            assert told or damage.silent, f"{place}: {offset} is lost in silence, {reading.told[place]}"
        if place in reading.refused:
            assert place in damage.places, f"{place}: {reading.refused[place]}"


def run(sound: str, old: str, work: str, seed: str, numbers: tuple[int, int]) -> dict[str, Any]:
    """Damage, read and check, once for each number; the failures, and how often something was told."""
    damager = Damager(Path(sound), Path(old), Path(work))
    damager.undo(written=True)
    whole = read_directory(Path(work), read_only=True)
    truth = whole.records
    assert not whole.refused and not any(whole.told.values()) and all(truth.values())
    found: dict[str, Any] = {"failures": [], "told": 0, "refused": 0, "appended": 0, "done": 0}
    for number in range(*numbers):
        faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)  # a hang fails, and says where
        rng = random.Random(f"{seed} {number}")
        done = damager.apply(rng, number)
        read_only = rng.random() < (0.75 if done.path.suffix == ".log" else 0.5)
        try:
            reading = read_directory(damager.work, read_only=read_only)
            check(done, truth, reading)
        except Exception as error:
            text = f"{number}: {done.what} of {done.path}: {type(error).__name__}: {error}"
            found["failures"].append(text[:600])
            if len(found["failures"]) > 40:
                break
        else:
            found["done"] += 1
            found["told"] += any(reading.told.values())
            found["refused"] += bool(reading.refused)
            found["appended"] += reading.appended
        finally:
            damager.undo(written=not read_only)
    return found
