"""Redis Streams: a real redis-server on a Unix socket, started for one turn and ended by its process handle.

Unsynced it runs with appendonly off, which is its fastest setting; synced with appendfsync always.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contest import SkippedError
from benchmarks.peers import Peer
from benchmarks.workload import Workload

START_TIMEOUT = 10.0
PAGE = 1000


class RedisStore:
    """A server of our own and one stream on it."""

    def __init__(self, redis: Any, program: str, directory: Path, synced: bool) -> None:
        self.socket_directory = tempfile.mkdtemp(prefix="bench-redis-")    # a socket's path must be short
        self.socket = f"{self.socket_directory}/s"
        durable = ["--appendonly", "yes", "--appendfsync", "always"] if synced else ["--appendonly", "no"]
        place = ["--unixsocket", self.socket, "--dir", str(directory)]
        self.server = subprocess.Popen(
            [program, "--port", "0", "--save", "", *place, *durable],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.client = redis.Redis(unix_socket_path=self.socket)
        self.wait_until_ready(redis)

    def wait_until_ready(self, redis: Any) -> None:
        """Return when the server answers; it is skipped where it does not."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.client.ping()
                return
            except redis.exceptions.ConnectionError:
                if self.server.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise SkippedError("Redis Streams is skipped: redis-server does not start") from None
                time.sleep(0.01)

    def append_each(self, values: list[bytes], keys: list[bytes]) -> None:
        """One XADD a record."""
        add = self.client.xadd
        for key, value in zip(keys, values, strict=True):
            add("t", {b"k": key, b"v": value})

    def append_batches(self, calls: list[tuple[list[bytes], list[bytes]]]) -> None:
        """One pipeline a call."""
        for values, keys in calls:
            pipeline = self.client.pipeline(transaction=False)
            for key, value in zip(keys, values, strict=True):
                pipeline.xadd("t", {b"k": key, b"v": value})
            pipeline.execute()

    def read_all(self) -> int:
        """XRANGE page by page."""
        count = 0
        start = "-"
        while page := self.client.xrange("t", start, count=PAGE):
            for _, fields in page:
                fields[b"v"]
                count += 1
            start = b"(" + page[-1][0]
        return count

    def close(self) -> None:
        """End the server that was started here, and nothing else."""
        self.client.close()
        self.server.terminate()
        try:
            self.server.wait(5)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(self.socket_directory, ignore_errors=True)


def find_redis() -> tuple[Any, str]:
    """The client's module and the server's program, or SkippedError."""
    program = shutil.which("redis-server")
    if program is None:
        raise SkippedError("Redis Streams is skipped: no redis-server on PATH (Debian: redis-server)")
    try:
        import redis
    except ImportError:
        raise SkippedError("Redis Streams is skipped: the package `redis` is not installed") from None
    return redis, program


def open_store(directory: Path, work: Workload, *, synced: bool) -> RedisStore:
    """A new server with an empty stream."""
    redis, program = find_redis()
    return RedisStore(redis, program, directory, synced)


PEERS = (
    Peer(
        "Redis Streams",
        "redis-server on a Unix socket, appendonly no; redis-py",
        False,
        partial(open_store, synced=False),
        {"one by one": 8_000, "in batches": 50_000, "read back": 100_000},
    ),
    Peer(
        "Redis Streams synced",
        "redis-server on a Unix socket, appendonly yes, appendfsync always; redis-py",
        True,
        partial(open_store, synced=True),
        {"one by one": 1_000, "in batches": 50_000, "read back": 100_000},
    ),
)
