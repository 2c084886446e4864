from struct import Struct

from logcore.delivery_file import DeliveryFile

HEADER: Struct
MAGIC: bytes
VERSION: int

def open_table(table: DeliveryFile) -> None: ...
