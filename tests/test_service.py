"""The native threads of an engine: its slot, its neighbour's death, asyncio's descriptor."""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from children import Child

from logcore.errors import ClosedError, ConfigError, ReadOnlyError, UnsupportedError
from logcore.processes import Registry
from logcore.service import Service

LIVE = """
import sys
from logcore.processes import Registry
from logcore.service import Service
registry = Registry(sys.argv[1])
service = Service(registry)
service.start()
print(registry.slot, flush=True)
sys.stdin.read()
"""


@contextmanager
def living(path: Path, *, polling: bool = False) -> Iterator[tuple[Registry, Service]]:
    registry = Registry(str(path))
    service = Service(registry, polling=polling)
    service.start()
    try:
        yield registry, service
    finally:
        service.close()
        registry.close()


def hear(registry: Registry, seen: int) -> None:
    """Sleep until the bell rings that the watch thread of a neighbour rings; one that is missed hangs."""
    while not registry.sleep(seen, 1.0):
        pass


def pids(registry: Registry) -> list[int]:
    return sorted(pid for _, pid, _ in registry.members())


def threads_of_service() -> list[str]:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sorted(name for name in names if name.startswith("pylog-"))


def test_a_service_has_a_slot_until_it_is_closed(tmp_path: Path) -> None:
    with living(tmp_path) as (registry, service):
        assert registry.members() == [(registry.slot, os.getpid(), registry.incarnation)]
        assert registry.lives(registry.slot, registry.incarnation)
        assert 0 <= service.heartbeat_age() < 20
        assert 0 <= registry.heartbeat_age(registry.slot) < 20
        slot = registry.slot
    assert registry.slot == -1 and slot == 0
    with pytest.raises(ClosedError):
        service.heartbeat_age()


def test_two_engines_of_one_process_have_two_slots(tmp_path: Path) -> None:
    with living(tmp_path) as (one, _), living(tmp_path) as (two, _):
        assert {one.slot, two.slot} == {0, 1}
        assert len(one.members()) == 2


def test_both_threads_block_every_signal_and_end_at_close(tmp_path: Path) -> None:
    with living(tmp_path):
        assert threads_of_service() == ["pylog-sync", "pylog-watch"]
        for task in Path("/proc/self/task").iterdir():
            status = (task / "status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            if fields["Name"].strip().startswith("pylog-"):
                # all but SIGKILL, SIGSTOP and the two that glibc keeps for itself
                assert int(fields["SigBlk"], 16) | 1 << 8 | 1 << 18 | 3 << 31 == (1 << 64) - 1
    assert threads_of_service() == []


@pytest.mark.parametrize("polling", [False, True])
def test_the_death_of_a_neighbour_is_told_to_everybody(tmp_path: Path, polling: bool) -> None:
    with living(tmp_path, polling=polling) as (registry, service), Child(LIVE, tmp_path) as child:
        child.says()
        seen = registry.word()
        child.kill()
        hear(registry, seen)
        assert service.deaths_seen == 1
        assert pids(registry) == [os.getpid()]


def test_deaths_all_round_the_ring_are_seen_whoever_dies_first(tmp_path: Path) -> None:
    with living(tmp_path) as (registry, service):
        children = [Child(LIVE, tmp_path) for _ in range(4)]
        try:
            for child in children:
                child.says()
            for child in (children[1], children[0], children[3], children[2]):
                seen = registry.word()
                child.kill()
                hear(registry, seen)
                assert child.pid not in pids(registry)
        finally:
            for child in children:
                child.__exit__(None, None, None)
        assert pids(registry) == [os.getpid()]
        assert service.deaths_seen >= 1  # the last one at least was ours to see


def test_neighbours_that_die_at_once_are_all_buried(tmp_path: Path) -> None:
    with living(tmp_path) as (registry, _):
        children = [Child(LIVE, tmp_path) for _ in range(3)]
        try:
            for child in children:
                child.says()
            seen = registry.word()
            for child in children:
                child.process.kill()
            for child in children:
                child.kill()
            hear(registry, seen)
            assert pids(registry) == [os.getpid()]
        finally:
            for child in children:
                child.__exit__(None, None, None)
        with living(tmp_path) as (next_one, _):
            assert next_one.slot == 1


def test_who_joins_behind_a_watched_neighbour_is_watched_too(tmp_path: Path) -> None:
    with Child(LIVE, tmp_path) as first:
        assert first.says() == "0"
        with living(tmp_path) as (registry, service), Child(LIVE, tmp_path) as between:
            assert between.says() == "2"
            seen = registry.word()
            between.kill()
            hear(registry, seen)
            assert service.deaths_seen == 1
            assert pids(registry) == sorted([first.pid, os.getpid()])


def test_a_clean_leave_is_no_death(tmp_path: Path) -> None:
    script = LIVE.replace("sys.stdin.read()", "sys.stdin.read(); service.close(); registry.close()")
    with living(tmp_path) as (registry, service), Child(script, tmp_path) as child:
        child.says()
        seen = registry.word()
        assert child.ends() == 0
        hear(registry, seen)
        assert service.deaths_seen == 0


def test_an_engine_that_is_dropped_without_close_stops_its_threads(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    service = Service(registry)
    service.start()
    del service
    assert threads_of_service() == []
    assert registry.slot == -1
    registry.close()


def test_a_process_that_exits_without_close_is_found_dead(tmp_path: Path) -> None:
    script = LIVE.replace("sys.stdin.read()", "import os; sys.stdin.read(); os._exit(0)")
    with living(tmp_path) as (registry, service), Child(script, tmp_path) as child:
        child.says()
        seen = registry.word()
        assert child.ends() == 0
        hear(registry, seen)
        assert service.deaths_seen == 1


def test_asyncio_is_told_by_a_descriptor_while_it_waits(tmp_path: Path) -> None:
    with living(tmp_path) as (registry, service), living(tmp_path) as (other, _):
        service.enroll()
        assert service.async_waiters == 1
        for _ in range(3):
            other.ring(registry.slot)
            assert select.select([service.eventfd], [], [], 20.0)[0]
            os.eventfd_read(service.eventfd)
        service.withdraw()
        assert service.async_waiters == 0
        with pytest.raises(ConfigError):
            service.withdraw()


def test_asyncio_is_told_also_where_the_kernel_cannot_wait_for_several_words(tmp_path: Path) -> None:
    with living(tmp_path, polling=True) as (registry, service):
        service.enroll()
        registry.ring(registry.slot)
        assert select.select([service.eventfd], [], [], 20.0)[0]
        service.withdraw()


def test_one_engine_too_many_is_told_the_limit(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    with (tmp_path / "processes").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        slot_bytes = (len(mapped) - 4096) // 1024
        for slot in range(1024):  # the first word of a mutex is its owner's thread
            mapped[4096 + slot * slot_bytes : 4100 + slot * slot_bytes] = os.getpid().to_bytes(4, "little")
        service = Service(registry)
        with pytest.raises(UnsupportedError, match="1024"):
            service.start()
        assert threads_of_service() == []
    registry.close()


def test_a_service_starts_once_and_for_writers_only(tmp_path: Path) -> None:
    with living(tmp_path) as (registry, service):
        with pytest.raises(ConfigError):
            service.start()
        with pytest.raises(ConfigError):
            Service(registry).start()
        looking = Registry(str(tmp_path), read_only=True)
        with pytest.raises(ReadOnlyError):
            Service(looking)
        looking.close()
    with pytest.raises(ClosedError):
        service.enroll()
