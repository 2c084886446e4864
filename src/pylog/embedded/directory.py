"""The data directory itself: is it ours, may we use it, and if it is new, making it.

Not its topics. Invariant: a directory that is refused was not changed, and reading changes nothing.
"""

from __future__ import annotations

import json
import os
import stat

from logcore.whole_files import clear_error, locked_directory, make_directory, open_plain, place_file
from pylog.embedded.filesystems import check_filesystem, write_in_place
from pylog.errors import ConfigError, FormatError, UnsupportedError

FORMAT_VERSION = 1
FEATURES: frozenset[str] = frozenset()
LARGEST_FORMAT_FILE = 64 << 10


def path_of(given: str | os.PathLike[str]) -> str:
    """Return the absolute real path of what a user gave to open().

    Raises:
        TypeError: it is neither str nor PathLike.
        ConfigError: it is empty or no possible path.
        UnsupportedError: it is a URL.
    """
    path = os.fspath(given)
    if not isinstance(path, str):
        raise TypeError(f"a data directory is a str or a PathLike of str, not {type(path).__name__}")
    if "://" in path:
        raise UnsupportedError(f"{path!r} is a URL: this release opens directories of this host only")
    if not path or "\0" in path:
        raise ConfigError(f"{path!r} is no path of a directory")
    return os.path.realpath(path)


def open_directory(root: str, *, read_only: bool, create: bool) -> None:
    """Check the directory at an absolute real path; make it where it is missing or empty and that is wanted.

    Raises:
        ConfigError: it is not there, and shall not be made; or everybody may write in it.
        FormatError: it is something else than a data directory, or of a newer release.
        UnsupportedError: it lies on a network file system.
        ReadOnlyError: it cannot be written.
        DiskFullError: there is no room for it.
    """
    check_filesystem(root)
    make = create and not read_only
    if not os.path.lexists(root):
        if not make:
            raise ConfigError(f"there is no data directory at {root}")
        make_directory(root)
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise clear_error(error, root) from None
    try:
        mode = os.fstat(fd).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(f"{root} is writable by everybody, who could take your log away: chmod o-w it")
        if not has_format(fd, root):
            begin(fd, root, make)
        if not read_only:
            # at every opening: a killed process may have left it half made
            make_directory(f"{root}/topics")
    finally:
        os.close(fd)
    check_real_directory(f"{root}/topics")


def begin(fd: int, root: str, make: bool) -> None:
    """Make a new log in an empty directory; refuse one with foreign content."""
    foreign = [name for name in os.listdir(fd) if not name.startswith(".format.") and name != "lost+found"]
    # looked at after the listing: another process may have made the log in between
    if has_format(fd, root):
        return
    if foreign:
        raise FormatError(
            f"{root} is no pylog data directory and not empty (it has {sorted(foreign)[0]!r}): use another"
        )
    if not make:
        raise FormatError(f"{root} is empty: there is no log to open")
    content = {"format": "pylog", "version": FORMAT_VERSION, "features": sorted(FEATURES)}
    # one process makes it: the first one that is through takes what is half made for a dead one's
    with locked_directory(root):
        if not has_format(fd, root):
            write_in_place(fd)
            place_file(fd, "format", json.dumps(content).encode() + b"\n", f"{root}/format")


def has_format(fd: int, root: str) -> bool:
    """Return whether the `format` file is there, after checking that this release understands it."""
    path = f"{root}/format"
    try:
        file = open_plain(fd, "format", path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        content = os.read(file, LARGEST_FORMAT_FILE)
    finally:
        os.close(file)
    check_format(content, path)
    return True


def check_format(content: bytes, path: str) -> None:
    """Raise FormatError where the content of a `format` file is not that of a log that we can read."""
    try:
        found = json.loads(content)
        name, version, features = found["format"], found["version"], found["features"]
        if name != "pylog" or type(version) is not int or version < 1:
            raise ValueError(f"format {name!r}, version {version!r}")
        if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
            raise ValueError("features are no list of names")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path} does not name a pylog data directory: {error!r}") from None
    if version > FORMAT_VERSION:
        raise FormatError(f"{path}: version {version} needs a newer pylog; this one knows {FORMAT_VERSION}")
    unknown = [feature for feature in features if feature not in FEATURES]
    if unknown:
        raise FormatError(f"{path}: this pylog does not know the feature {unknown[0]!r}; use a newer one")


def check_real_directory(path: str) -> None:
    """Raise FormatError where something else than a directory stands at `path`; nothing there is fine."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise clear_error(error, path) from None
    if not stat.S_ISDIR(mode):
        raise FormatError(f"{path} is no directory; symbolic links in a data directory are not followed")
