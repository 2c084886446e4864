from typing import final

@final
class TopicBuffer:
    name: str
