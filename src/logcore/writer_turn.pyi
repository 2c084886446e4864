from typing import final

@final
class WriterTurn: ...
