"""The process registry: who lives in a data directory, through kills, forks and foreign containers."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from children import Child

from logcore.errors import (
    ClosedError,
    ConfigError,
    DiskFullError,
    FormatError,
    LockTimeoutError,
    ReadOnlyError,
    UnsupportedError,
)
from logcore.hashing import checksum_header
from logcore.processes import Registry, fork_count
from logcore.service import Service
from logcore.whole_files import check_name, clear_error, locked_directory, place_file

HEADER = struct.Struct("<8sIIIIQ16sQQ")

LIVE = """
import sys
from logcore.processes import Registry
from logcore.service import Service
registry = Registry(sys.argv[1])
service = Service(registry)
service.start()
print(registry.slot, registry.session, flush=True)
for line in sys.stdin:
    exec(line)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path)


@pytest.fixture
def registry(path: str) -> Iterator[Registry]:
    registry = Registry(path)
    yield registry
    registry.close()


def names_in(path: str | Path) -> list[str]:
    return sorted(found.name for found in Path(path).iterdir())


def rewrite_header(path: str, **changes: object) -> None:
    names = ("magic", "version", "slots", "slot_bytes", "zero", "session", "boot", "pid_ns", "time_ns")
    file = Path(path, "processes")
    data = bytearray(file.read_bytes())
    fields = {**dict(zip(names, HEADER.unpack_from(data), strict=True)), **changes}
    header = HEADER.pack(*fields.values())
    data[: len(header) + 8] = header + checksum_header(header, 0, 0).to_bytes(8, "little")
    with file.open("r+b") as out:
        out.write(data)


def test_the_first_engine_knows_that_it_is_the_first_and_the_next_joins_its_session(path: str) -> None:
    first, second = Registry(path), Registry(path)

    assert (first.first, second.first) == (True, False)
    assert first.session == second.session != 0
    assert first.incarnation != second.incarnation
    assert first.others_live() and second.others_live()
    first.close()
    assert not second.others_live()
    second.close()


def test_a_new_session_begins_when_everybody_had_gone(path: str) -> None:
    one = Registry(path)
    one.close()
    two = Registry(path)

    assert two.first
    assert two.session != one.session
    two.close()


def test_a_killed_engine_keeps_nobody_out(path: str) -> None:
    with Child(LIVE, path) as child:
        session = int(child.says().split()[1])
        child.kill()

    registry = Registry(path)
    assert registry.first
    assert registry.session != session
    assert registry.members() == []
    registry.close()


def test_a_killed_opener_leaves_nothing_behind(path: str) -> None:
    leftover = Path(path, ".processes.0123456789abcdef.tmp")
    leftover.write_bytes(b"half")

    Registry(path).close()

    assert names_in(path) == ["lock", "processes"]
    assert {Path(path, name).stat().st_mode & 0o777 for name in names_in(path)} == {0o600}


def test_processes_that_open_and_die_at_random_never_meet_in_two_sessions(path: str) -> None:
    script = """
import select, sys
from logcore.processes import Registry
from logcore.service import Service
for turn in range(100_000):
    registry = Registry(sys.argv[1])
    service = Service(registry)
    service.start()
    others = registry.members()
    assert (registry.slot, registry.pid, registry.incarnation) in others
    print(registry.session, flush=True)
    if select.select([sys.stdin], [], [], 0)[0]:
        print("stays", flush=True)
        sys.stdin.read()
    service.close()
    registry.close()
"""
    for turn in range(6):
        with Child(script, path) as one, Child(script, path) as two:
            for _ in range(3 + turn):
                one.says(), two.says()
            one.kill()
            ours = Registry(path)
            two.tell()
            session = ""
            while (line := two.says()) != "stays":
                session = line
            assert int(session) == ours.session
            assert ours.others_live()
            two.kill()
            assert not ours.others_live()
            assert ours.members() == []
            ours.close()


def test_read_only_sees_who_lives_and_changes_nothing(path: str) -> None:
    idle = Registry(path, read_only=True)
    assert idle.first and not idle.others_live() and idle.members() == []
    assert names_in(path) == []

    with Child(LIVE, path) as child:
        slot, session = map(int, child.says().split())
        before = {name: Path(path, name).stat().st_mtime_ns for name in names_in(path)}
        looking = Registry(path, read_only=True)
        assert not looking.first and looking.session == session
        assert [member[:2] for member in looking.members()] == [(slot, child.pid)]
        assert [member[:2] for member in idle.members()] == [(slot, child.pid)]
        looking.ring_all()
        assert before == {name: Path(path, name).stat().st_mtime_ns for name in names_in(path)}
        child.kill()
        assert not looking.refresh() and looking.session == 0
        looking.close()
    idle.close()


def test_read_only_follows_into_the_next_session(path: str) -> None:
    one = Registry(path)
    looking = Registry(path, read_only=True)
    one.close()
    two = Registry(path)

    assert looking.refresh()
    assert looking.session == two.session
    two.close()
    looking.close()


def test_engines_of_another_pid_namespace_are_refused_with_the_remedy_while_they_live(
    path: str, registry: Registry
) -> None:
    rewrite_header(path, pid_ns=1)

    with pytest.raises(UnsupportedError, match=r"namespace.*read_only=True"):
        Registry(path)
    Registry(path, read_only=True).close()


def test_a_real_container_of_its_own_pids_is_refused_and_may_read(path: str, registry: Registry) -> None:
    own_pids = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    if shutil.which("unshare") is None or subprocess.run([*own_pids, ""], capture_output=True).returncode:
        pytest.skip("a pid namespace cannot be made here")
    script = """
import sys
from logcore.errors import UnsupportedError
from logcore.processes import Registry
looking = Registry(sys.argv[1], read_only=True)
assert looking.others_live() and not looking.first
try:
    Registry(sys.argv[1])
except UnsupportedError:
    print("refused")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*own_pids, script, path], capture_output=True, text=True, env=environment)
    assert (done.stdout.strip(), done.stderr) == ("refused", "")


def test_engines_of_another_time_namespace_or_machine_are_refused(path: str, registry: Registry) -> None:
    rewrite_header(path, time_ns=1)
    with pytest.raises(UnsupportedError, match="namespace"):
        Registry(path)

    rewrite_header(path, boot=bytes(16))
    with pytest.raises(UnsupportedError, match="another machine"):
        Registry(path)


def test_another_release_of_pylog_is_refused_while_it_lives(path: str, registry: Registry) -> None:
    rewrite_header(path, version=2)

    with pytest.raises(FormatError, match="another release"):
        Registry(path)


def test_every_damaged_byte_of_the_header_is_one_clear_error_while_engines_live(
    path: str, registry: Registry
) -> None:
    file = Path(path, "processes")
    whole = file.read_bytes()
    for at in range(HEADER.size + 8):
        with file.open("r+b") as out:
            out.seek(at)
            out.write(bytes([whole[at] ^ 0x40]))
        with pytest.raises(FormatError):
            Registry(path)
        with file.open("r+b") as out:
            out.write(whole[: HEADER.size + 8])
    Registry(path).close()


def test_a_removed_or_shortened_registry_is_one_clear_error(path: str) -> None:
    with Child(LIVE, path) as child:
        child.says()
        file = Path(path, "processes")
        copy = file.read_bytes()
        file.unlink()
        with pytest.raises(FormatError, match="removed"):
            Registry(path)
        file.write_bytes(copy[:5000])
        with pytest.raises(FormatError, match="size"):
            Registry(path)


@pytest.mark.parametrize("name", ["lock", "processes"])
def test_a_symbolic_link_is_not_followed(
    path: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    target = tmp_path_factory.mktemp("elsewhere") / "target"
    target.write_bytes(b"precious")
    Registry(path).close()
    Path(path, name).unlink()
    Path(path, name).symlink_to(target)

    if name == "lock":
        with pytest.raises(FormatError, match="symbolic"):
            Registry(path)
    else:
        Registry(path).close()  # nobody lives: the link is replaced
    assert target.read_bytes() == b"precious"


def test_a_lock_that_is_no_plain_file_is_refused(path: str) -> None:
    os.mkfifo(Path(path, "lock"))

    with pytest.raises(FormatError, match="plain file"):
        Registry(path)


def test_a_directory_that_is_not_there_is_one_clear_error(path: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Registry(str(Path(path, "nowhere")))


def test_an_opening_that_somebody_holds_up_times_out(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1)
print("held", flush=True)
sys.stdin.read()
"""
    monkeypatch.setattr("logcore.processes.LOCK_SECONDS", 0.05)
    with Child(script, Path(path, "lock")) as child:
        child.says()
        with pytest.raises(LockTimeoutError, match="opening"):
            Registry(path)


def test_lives_tells_an_incarnation_from_the_next_one_in_its_slot(path: str, registry: Registry) -> None:
    with Child(LIVE, path) as child:
        slot = int(child.says().split()[0])
        ((_, _, dead),) = registry.members()
        assert registry.lives(slot, dead)
        child.kill()
    assert not registry.lives(slot, dead)

    with Child(LIVE, path) as child:
        assert int(child.says().split()[0]) == slot
        assert not registry.lives(slot, dead)
        ((_, pid, living),) = registry.members()
        assert pid == child.pid and registry.lives(slot, living)
    assert not registry.lives(slot, 0) and not registry.lives(-1, living) and not registry.lives(1024, living)


def test_a_stopped_engine_still_lives(path: str, registry: Registry) -> None:
    with Child(LIVE, path) as child:
        child.says()
        child.stop()
        assert [pid for _, pid, _ in registry.members()] == [child.pid]


def test_a_sleeper_is_woken_by_a_bell_from_another_process(path: str, registry: Registry) -> None:
    service = Service(registry)
    service.start()
    with Child(LIVE, path) as child:
        child.says()
        seen = registry.word()
        child.tell(f"registry.ring({registry.slot})")
        while not registry.sleep(seen, 1.0):
            pass
        assert registry.word() != seen
    service.close()


def test_a_bell_that_rang_before_is_not_missed(registry: Registry) -> None:
    service = Service(registry)
    service.start()
    seen = registry.word()
    registry.ring(registry.slot)

    assert registry.sleep(seen, 60.0)
    service.close()


def test_a_sleeper_lets_other_threads_run(registry: Registry) -> None:
    service = Service(registry)
    service.start()
    seen = registry.word()
    ringer = threading.Thread(target=registry.ring, args=(registry.slot,))
    ringer.start()
    while not registry.sleep(seen, 1.0):
        pass
    ringer.join()
    service.close()


def test_nobody_rings_and_the_sleeper_says_so(registry: Registry) -> None:
    service = Service(registry)
    service.start()
    assert not registry.sleep(registry.word(), 0.001)
    assert not registry.sleep(registry.word(), -1.0)
    service.close()
    assert not registry.sleep(registry.word(), 0.001)  # without a slot it only sleeps


def test_ctrl_c_is_served_while_asleep(registry: Registry) -> None:
    service = Service(registry)
    service.start()

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            while True:
                registry.sleep(registry.word(), 1.0)
    finally:
        signal.signal(signal.SIGALRM, before)
    service.close()


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(path: str) -> None:
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from logcore.processes import Registry
from logcore.service import Service
registry = Registry(sys.argv[1])
service = Service(registry)
service.start()
if os.fork() == 0:
    print("child", os.getpid(), flush=True)
    sys.stdin.readline()
    print("alive", flush=True)
    os._exit(0)
os.wait()
"""
    with Child(script, path) as child:
        child.says()
        child.kill()
        registry = Registry(path)
        assert registry.first
        registry.close()
        child.tell()
        assert child.says() == "alive"


def test_what_a_child_inherits_is_inert_and_its_close_takes_nothing_from_the_parent(path: str) -> None:
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from logcore.errors import ClosedError
from logcore.processes import Registry, fork_count
from logcore.service import Service
registry = Registry(sys.argv[1])
service = Service(registry)
service.start()
count = fork_count()
pid = os.fork()
if pid == 0:
    assert fork_count() == count + 1
    for call in (registry.members, registry.others_live, service.start, service.enroll):
        try:
            call()
        except ClosedError:
            continue
        os._exit(1)
    assert service.thread_count == 0
    service.close()
    registry.close()
    own = Registry(sys.argv[1])
    assert not own.first and own.session == registry.session
    own.close()
    del service, registry, own
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert fork_count() == count
assert len(registry.members()) == 1 and service.thread_count == 2
print("held" if not Registry(sys.argv[1]).first else "lost", flush=True)
service.close()
registry.close()
"""
    with Child(script, path) as child:
        assert child.says() == "held"
        assert child.ends() == 0


def test_a_closed_registry_says_so(path: str) -> None:
    registry = Registry(path)
    registry.close()
    registry.close()

    with pytest.raises(ClosedError):
        registry.members()
    with pytest.raises(ClosedError):
        Service(registry)
    with pytest.raises(ConfigError):
        Registry.__init__(registry, path)


def test_the_registry_outlives_its_service(registry: Registry) -> None:
    service = Service(registry)
    service.start()
    with pytest.raises(ConfigError, match="service"):
        registry.close()
    service.close()


def test_descriptors_return_to_what_they_were(path: str) -> None:
    before = len(names_in("/proc/self/fd"))
    for _ in range(50):
        registry = Registry(path)
        service = Service(registry)
        service.start()
        assert service.eventfd > 0
        service.close()
        registry.close()
        Registry(path, read_only=True).close()
        del service
    assert len(names_in("/proc/self/fd")) == before
    assert fork_count() >= 0


# ---- small whole files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "-x", "a/b", "a b", "x" * 201, "naïve", "a\n", "a\0"])
def test_a_name_that_must_not_become_a_path_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letters"):
        check_name(name, "topic")


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    with locked_directory(str(tmp_path)) as directory:
        place_file(directory, "f", b"old", "f")
        place_file(directory, "f", b"new", "f")
    assert (tmp_path / "f").read_bytes() == b"new"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["f"]


def test_a_directory_is_locked_for_one_at_a_time(tmp_path: Path) -> None:
    with locked_directory(str(tmp_path)), pytest.raises(LockTimeoutError, match="locked"):
        with locked_directory(str(tmp_path), timeout=0.01):
            pass


def test_errors_of_the_system_become_errors_of_pylog() -> None:
    kinds = {errno.ENOSPC: DiskFullError, errno.EROFS: ReadOnlyError, errno.ELOOP: FormatError}
    for code, kind in kinds.items():
        assert isinstance(clear_error(OSError(code, os.strerror(code)), "some/file"), kind)
    assert "some/file" in str(clear_error(OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "some/file"))
