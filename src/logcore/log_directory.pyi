from collections.abc import Mapping

from typing_extensions import disjoint_base

from logcore.batch import RecordId
from logcore.topic_log import TopicLog

@disjoint_base
class LogDirectory:
    closed: bool
    def _check_open(self) -> None: ...
    def _drop(self, name: str) -> None: ...
    def _begin_anew(self) -> None: ...
    def _topic(self, name: str) -> TopicLog: ...
    def _forget(self, name: str) -> TopicLog | None: ...
    def _opened(self) -> list[TopicLog]: ...
    def _shut(self) -> None: ...
    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        partition: int | None = None,
        headers: object = None,
        timestamp: int | None = None,
        durability: str | None = None,
        guard: int | Mapping[bytes, int] | None = None,
    ) -> RecordId: ...
