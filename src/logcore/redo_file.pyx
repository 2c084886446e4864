# cython: language_level=3
"""The file of a redo record: one rename puts it in place, and with it commits its transaction.

docs/FORMAT.md says what is in it, to the byte.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint8_t

from logcore.failpoints cimport failpoint_errno, planted
from logcore.hashing cimport xxh3
from logcore.linux cimport EINTR, close, fsync, renameat, unlinkat
from logcore.transaction_parts cimport AppendPart

import json
import os
import struct

from logcore.whole_files import clear_error, make_directory, write_unfinished

REDO_DIRECTORY = "redo"
MOST_DESCRIBED = 64 << 20
MAGIC = b"pylogrdo"
FRONT = struct.Struct("<8sIIQQ")         # magic, version, 0, bytes of the description, checksum of the rest
VERSION = 1


@cython.final
cdef class RedoFile:
    """The file of a redo record: written, then put in place by one call that no signal can part in two."""

    def __cinit__(self, str root, bytes transaction):
        self.directory = -1
        self.name = f"{transaction.hex()}.redo".encode()
        self.temporary = b"." + self.name + b".tmp"
        self.path = f"{root}/{REDO_DIRECTORY}/{transaction.hex()}.redo"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.directory = os.open(f"{root}/{REDO_DIRECTORY}", flags)
        except FileNotFoundError:
            make_directory(f"{root}/{REDO_DIRECTORY}")
            self.directory = os.open(f"{root}/{REDO_DIRECTORY}", flags)
        except OSError as error:
            raise clear_error(error, f"{root}/{REDO_DIRECTORY}") from None

    def __dealloc__(self):
        if self.directory >= 0:
            close(self.directory)

    def write(
        self, tuple owner, bytes transaction, list appends, list offsets, list deliveries, bint durable
    ):
        """Write what is to be put in place, on disk if it is to be durable. Raises DiskFullError, OSError."""
        description = json.dumps({
            "transaction": transaction.hex(), "owner": list(owner), "durable": durable != 0,
            "appends": [part.describe() for part in appends],
            "offsets": [part.describe() for part in offsets],
            "deliveries": [part.describe() for part in deliveries],
        }).encode()
        rest = b"".join([description, *[bytes((<AppendPart> part).batch) for part in appends]])
        checksum = xxh3(<const uint8_t*> <const char*> rest, len(rest))
        front = FRONT.pack(MAGIC, VERSION, 0, len(description), checksum)
        if planted("redo_not_synced"):
            durable = False
        write_unfinished(self.directory, self.temporary.decode(), front + rest, self.path, durable=durable)

    cdef int place(self) noexcept:
        """The commit point: 0 or an errno."""
        cdef int error = failpoint_errno("transaction.place")
        if error == 0 and renameat(self.directory, self.temporary, self.directory, self.name) != 0:
            error = errno
        return error

    cdef int sync(self) noexcept nogil:
        """Bring the name to disk: 0 or an errno."""
        while not planted("redo_not_synced") and fsync(self.directory) != 0:
            if errno != EINTR:
                return errno
        return 0

    cdef int discard(self) except -1:
        unlinkat(self.directory, self.temporary, 0)
        return 0


def decode_record(content: bytes) -> tuple | None:
    """The description and the batches of a redo record; None where it is not whole."""
    if len(content) < FRONT.size:
        return None
    magic, version, _, described, checksum = FRONT.unpack_from(content)
    rest = content[FRONT.size:]
    if magic != MAGIC or version != VERSION or described > len(rest):
        return None
    if xxh3(<const uint8_t*> <const char*> rest, len(rest)) != checksum:
        return None
    description = json.loads(rest[:described])
    batches = rest[described:]
    if sum(part["bytes"] for part in description["appends"]) != len(batches):
        return None
    return description, batches


def decode_owner(path: object) -> tuple | None:
    """The registry slot and incarnation of a record's owner, without its batches; None where not whole."""
    with open(path, "rb") as file:
        front = file.read(FRONT.size)
        if len(front) < FRONT.size:
            return None
        magic, version, _, described, _ = FRONT.unpack(front)
        if magic != MAGIC or version != VERSION or described > MOST_DESCRIBED:
            return None
        described = file.read(described)
    try:
        slot, incarnation = json.loads(described)["owner"]
    except (ValueError, KeyError, TypeError):
        return None
    return slot, incarnation


def pending_records(directory: str):
    """Yield the description and the batches of each redo record that is whole."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in names:
        if not name.endswith(".redo"):
            continue
        try:
            with open(f"{directory}/{name}", "rb") as file:
                found = decode_record(file.read())
        except FileNotFoundError:                # finished just now
            continue
        if found is not None:
            yield found
