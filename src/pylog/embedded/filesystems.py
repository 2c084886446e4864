"""Which file system a directory lies on, and whether a log may live there.

Read from /proc/self/mountinfo, since Python has no statfs(2) that names the type. Not a test of what the file
system can do. Invariant: a type that is unknown here is allowed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
from contextlib import suppress
from pathlib import Path

from pylog.errors import UnsupportedError

logger = logging.getLogger("pylog")

NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "9p", "gfs2", "ocfs2", "vboxsf")
)
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_NOCOW_FL = 0x8008_6601, 0x4008_6602, 0x0080_0000
"""As linux/fs.h has them for 64 bits: ioctl_iflags(2)."""
OCTAL = re.compile(r"\\([0-7]{3})")


def filesystem_type(path: str, mountinfo: str) -> str:
    """Return the type of the file system at an absolute real path, "" where mountinfo does not tell."""
    found, deepest = "", -1
    for line in mountinfo.splitlines():
        mounted, dash, described = line.partition(" - ")
        fields = mounted.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # of two mounts on one point the later one is on top
        if inside and len(point) >= deepest:
            found, deepest = described.split(" ")[0], len(point)
    return found


def check_filesystem(path: str) -> None:
    """Refuse a network file system and warn of one that loses everything at power-off.

    Mapped memory and locks of a network file system are not shared by the hosts that mount it, and those of
    FUSE depend on a daemon.

    Raises:
        UnsupportedError: it is NFS, CIFS, FUSE or the like.
    """
    while not os.path.lexists(path):
        path = os.path.dirname(path)  # noqa: PTH120 - of a real path, and cheap
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return
    kind = filesystem_type(path, mountinfo)
    if kind in NETWORK or kind == "fuse" or kind.startswith(("fuse.", "fuseblk")):
        raise UnsupportedError(
            f"{path} lies on {kind}: memory shared by processes is not safe there; use a local file system"
        )
    if kind in IN_MEMORY:
        logger.warning("%s lies on %s: a reboot takes all of it, whatever durability says", path, kind)


def write_in_place(fd: int) -> None:
    """Have the files of a new directory overwritten in place where its file system would copy them (btrfs).

    As `chattr +C` does. A store into mapped memory that needs space is a SIGBUS on a full disk, and offsets
    and what processes share are stored so. Where the file system knows nothing of it (all others), nothing
    happens.
    """
    with suppress(OSError):
        (flags,) = struct.unpack("l", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", flags | FS_NOCOW_FL))
