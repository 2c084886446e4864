from typing import final

from logcore.record_ids import RecordIds
from logcore.topic_log import TopicLog

@final
class BulkAppend:
    def __new__(
        cls, topic: TopicLog, values: object, keys: object, timestamps: object, headers: object
    ) -> BulkAppend: ...
    def run_guarded(self, partition: int | None, durability: str | None, guard: object) -> RecordIds: ...
    def run(self, partition: int | None, durability: str | None) -> RecordIds: ...
