"""What a consumer subscribes to: names, globs (`orders.*`), regular expressions; and which topics that is."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from pylog.config import check_name
from pylog.errors import ConfigError

GLOB = frozenset("*?[")
INLINE_FLAGS = {"i": re.IGNORECASE, "s": re.DOTALL, "x": re.VERBOSE}


class Subscription:
    """Topics by name, and patterns that match whole names."""

    def __init__(self, topics: str | re.Pattern[str] | Iterable[str | re.Pattern[str]]) -> None:
        self.topics: list[str] = []
        self.patterns: list[str] = []
        if not isinstance(topics, str | re.Pattern | Iterable) or isinstance(topics, bytes):
            raise TypeError(f"topics are a str, a pattern or a list of these, not {type(topics).__name__}")
        wanted = [topics] if isinstance(topics, str | re.Pattern) else list(topics)
        if not wanted:
            raise ConfigError("subscribe() needs a topic; unsubscribe() reads nothing")
        for topic in wanted:
            if isinstance(topic, re.Pattern):
                if not isinstance(topic.pattern, str):
                    raise TypeError(f"a pattern of names is one of str, not {topic.pattern!r}")
                flags = "".join(letter for letter, flag in INLINE_FLAGS.items() if topic.flags & flag)
                self.patterns.append(f"(?{flags}:{topic.pattern})" if flags else topic.pattern)
            elif isinstance(topic, str) and not GLOB.isdisjoint(topic):
                self.patterns.append(fnmatch.translate(topic))
            else:
                self.topics.append(check_name(topic, "topic"))

    def __repr__(self) -> str:
        return f"Subscription(topics={self.topics}, patterns={self.patterns})"


def matching(topics: Iterable[str], patterns: Iterable[str], known: Iterable[str]) -> set[str]:
    """Return the known topics that are named or matched."""
    compiled = [re.compile(pattern) for pattern in patterns]
    named = set(topics)
    return {name for name in known if name in named or any(pattern.fullmatch(name) for pattern in compiled)}
