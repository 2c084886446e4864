"""Redis Streams with a consumer group: XADD, XREADGROUP, XACK on a real redis-server.

Unsynced it runs with appendonly off, so it keeps less than pylog does: what a server's death takes with it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from benchmarks.peers.redis_streams import RedisStore, find_redis
from benchmarks.queues import QueuePeer
from benchmarks.workload import Workload

STREAM = "q"
GROUP = "workers"
SOCKET_NAME = "socket-of-redis"


class RedisGroup:
    """One worker of the group, through one connection."""

    def __init__(self, client: Any, server: RedisStore | None) -> None:
        self.client = client
        self.server = server
        self.name = f"worker-{os.getpid()}"

    def put_each(self, values: list[bytes]) -> None:
        """One XADD a record."""
        add = self.client.xadd
        for value in values:
            add(STREAM, {b"v": value})

    def put_batches(self, batches: list[list[bytes]]) -> None:
        """One pipeline a batch."""
        for values in batches:
            pipeline = self.client.pipeline(transaction=False)
            for value in values:
                pipeline.xadd(STREAM, {b"v": value})
            pipeline.execute()

    def drain(self, batch: int) -> int:
        """XREADGROUP and XACK by `batch`."""
        handled = 0
        read, ack = self.client.xreadgroup, self.client.xack
        while found := read(GROUP, self.name, {STREAM: ">"}, count=batch):
            numbers = []
            for number, fields in found[0][1]:
                fields[b"v"]
                numbers.append(number)
            ack(STREAM, GROUP, *numbers)
            handled += len(numbers)
        return handled

    def close(self) -> None:
        """Close the connection, and end the server where it is ours."""
        self.client.close()
        if self.server is not None:
            self.server.close()


def open_queue(directory: Path, work: Workload) -> RedisGroup:
    """A new server with an empty stream and its group."""
    redis, program = find_redis()
    server = RedisStore(redis, program, directory, synced=False)
    (directory / SOCKET_NAME).write_text(server.socket)
    server.client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    return RedisGroup(server.client, server)


def join_queue(directory: Path) -> RedisGroup:
    """Another connection to the server of a directory."""
    redis, _program = find_redis()
    return RedisGroup(redis.Redis(unix_socket_path=(directory / SOCKET_NAME).read_text()), None)


PEERS = (
    QueuePeer(
        "Redis consumer group",
        "redis-server on a Unix socket, appendonly no; redis-py",
        open_queue,
        join_queue,
        {
            "put one by one": 8_000,
            "put in batches": 50_000,
            "work one by one": 4_000,
            "work in batches": 50_000,
            "eight workers": 50_000,
        },
    ),
)
