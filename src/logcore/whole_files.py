"""Small whole files: put in place complete or not at all, and opened without following links.

Not for segments, which grow. Invariant: under its final name a file is complete. What a killed process
leaves begins with a dot and ends in `.tmp`; whoever next holds the lock of the directory removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from logcore.errors import (
    ConfigError,
    DiskFullError,
    FormatError,
    LockTimeoutError,
    PylogError,
    ReadOnlyError,
)

LOCK_SECONDS = 10.0
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)

_locked: set[int] = set()


def _close_inherited() -> None:
    # A lock of flock belongs to the open file that parent and child share: the child must let go of it, or
    # it would keep the directory locked after its parent was killed.
    for fd in tuple(_locked):
        with suppress(OSError):
            os.close(fd)
    _locked.clear()


os.register_at_fork(after_in_child=_close_inherited)


def check_name(name: str, what: str) -> str:
    """Return `name` if it may become a path (letters, digits, `.`, `_`, `-`; not starting with `.` or `-`).

    Raises:
        ConfigError: it may not; the message says `what` it would have named.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {str(name)[:250]!r}: use 1 to 200 letters, digits, '.', '_' or '-', "
            "and neither '.' nor '-' as the first"
        )
    return name


def clear_error(error: OSError, path: str) -> Exception:
    """Return the error that a user shall see for `error` of a call on `path`; one of ours stays as it is.

    What may be read, but not be written, is a ReadOnlyError; what may not even be read, a PermissionError.
    """
    if isinstance(error, PylogError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFullError(f"no room to write {path}: {error.strerror}", error.errno)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        if error.errno != errno.EROFS and not _readable(path):
            return PermissionError(error.errno, error.strerror, path)
        return ReadOnlyError(f"{path}: {error.strerror}; open with read_only=True, or change its permissions")
    if error.errno == errno.ENOTDIR:
        return FormatError(f"{path}: a file or a symbolic link stands where a directory belongs")
    if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
        return FormatError(f"{path} is not a plain file ({error.strerror}); symbolic links are not followed")
    return OSError(error.errno, error.strerror, path)


def _readable(path: str) -> bool:
    # of a file that could not be made, its directory tells
    return os.access(path if os.path.lexists(path) else Path(path).parent, os.R_OK)


@contextmanager
def locked_directory(path: str, timeout: float = LOCK_SECONDS, *, shared: bool = False) -> Iterator[int]:
    """Hold the directory `path` for us alone, among all processes that ask so; yields its descriptor.

    With `shared` others may hold it beside us, if they ask for it so as well.

    Raises:
        LockTimeoutError: somebody else held it for `timeout` seconds.
        FormatError: it is no directory, or a symbolic link.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise clear_error(error, path) from None
    _locked.add(fd)
    try:
        _lock_within(fd, path, timeout, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        try:
            yield fd
        finally:
            if fd in _locked:
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        if fd in _locked:
            _locked.remove(fd)
            os.close(fd)


def _lock_within(fd: int, path: str, timeout: float, operation: int) -> None:
    deadline = time.monotonic() + timeout
    pause = 0.0005
    while True:
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise LockTimeoutError(f"{path} stayed locked by another process for {timeout:g} s") from None
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def make_directory(path: str) -> None:
    """Create the directory `path` (mode 0700) and its parents, each on disk before this returns."""
    if os.path.isdir(path):  # noqa: PTH112 - pathlib would be the dearest import of the core
        return
    parent = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
    make_directory(parent)
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except FileExistsError:
        if not os.path.isdir(path):  # noqa: PTH112
            raise FormatError(f"{path} is in the way: a directory belongs there") from None
    except OSError as error:
        raise clear_error(error, path) from None


def open_plain(directory: int | None, name: str, path: str, flags: int = os.O_RDWR) -> int:
    """Open a plain file of an open directory and return its descriptor; links and devices are refused.

    Without a directory the name is a path. With O_CREAT among the flags it is made with mode 0600.

    Raises:
        FileNotFoundError: there is none.
        FormatError: what is there is no plain file.
    """
    try:
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise clear_error(error, path) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FormatError(f"{path} is not a plain file")
    return fd


def place_file(directory: int, name: str, content: bytes, path: str, *, durable: bool = True) -> None:
    """Make or replace a file of an open directory in one step: readers see the old bytes or all of `content`.

    Args:
        durable: survives a power cut on return.

    Raises:
        DiskFullError: no room; what was there is untouched.
    """
    temporary = f".{name}.{os.urandom(8).hex()}.tmp"
    write_unfinished(directory, temporary, content, path, durable=durable)
    try:
        try:
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        if durable:
            os.fsync(directory)
    except OSError as error:
        raise clear_error(error, path) from None


def write_unfinished(directory: int, name: str, content: bytes, path: str, *, durable: bool) -> None:
    """Make a file that somebody renames into place; where this raises nothing is left of it.

    Args:
        path: what it is to become, for messages.

    Raises:
        DiskFullError, OSError
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            _write_whole(fd, content, durable)
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise clear_error(error, path) from None


def _write_whole(fd: int, content: bytes, durable: bool) -> None:
    os.fchmod(fd, 0o600)
    written = 0
    while written < len(content):
        written += os.write(fd, content[written:])
    if durable:
        os.fsync(fd)


def remove_leftovers(directory: int, name: str = "") -> None:
    """Remove what killed processes left half made, of `name` only where it is given.

    The caller holds the lock under which such files are made.
    """
    for found in os.listdir(directory):
        if found.startswith(f".{name}") and found.endswith(".tmp"):
            with suppress(FileNotFoundError):
                os.unlink(found, dir_fd=directory)
