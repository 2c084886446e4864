"""Work queues over topics: the same bytes, acknowledged one by one.

`engine.queue()` opens one. `queue.py` has Queue, `delivery.py` what get() returns, `dead_letters.py` what
becomes of what cannot be handled, `workers.py` the loop that handles, `face.py` the face of queue.Queue.
Written against pylog.engine and pylog.queue_source alone.
"""

from __future__ import annotations

from logcore.direct_queue import Delivery
from pylog.queues.dead_letters import DeadLetter, DeadLetters, Redriven
from pylog.queues.opening import open_queue
from pylog.queues.options import QueueArguments
from pylog.queues.queue import Queue
from pylog.queues.workers import Workers

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "Queue",
    "QueueArguments",
    "Redriven",
    "Workers",
    "open_queue",
]
