from collections.abc import Iterable, Mapping

def encode_one(
    key: bytes | None,
    value: bytes | None,
    headers: Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]] | None = None,
    timestamp: int | None = None,
    salt: int = 0,
    position: int = 0,
) -> bytes: ...
