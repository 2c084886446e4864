from struct import Struct

from logcore.deliveries import DeliveryTable

HEADER: Struct
MAGIC: bytes
VERSION: int

def open_table(table: DeliveryTable) -> None: ...
