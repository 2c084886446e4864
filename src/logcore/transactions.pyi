from logcore.transaction_parts import AppendPart, DeliveryPart, OffsetPart

def commit_parts(
    root: str,
    owner: tuple[int, int],
    transaction: bytes,
    appends: list[AppendPart],
    offsets: list[OffsetPart],
    deliveries: list[DeliveryPart],
    durable: bool,
) -> str: ...
def order_of_append(part: AppendPart) -> tuple[bytes, int]: ...
def order_of_offset(part: OffsetPart) -> tuple[str, int]: ...
def order_of_delivery(part: DeliveryPart) -> str: ...
