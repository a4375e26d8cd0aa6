"""What stands beside a payload in device memory, or goes ahead of it: 64 bytes that name it."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from minedraft.errors import ChannelError
from minedraft.types import PayloadRef

HEADER_BYTES: Final = 64
_MAGIC: Final = b"MDP1"
_FIELDS: Final = struct.Struct("<4sIQQQ")  # magic, slot, generation, sequence, nbytes; a CRC-32 of these follows
_SUM: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class PayloadHeader:
    """The part of a PayloadRef that the receiver checks."""

    slot: int
    generation: int
    sequence: int
    nbytes: int

    @classmethod
    def of(cls, ref: PayloadRef) -> PayloadHeader:
        return cls(ref.slot, ref.generation, ref.sequence, ref.nbytes)

    def pack(self) -> Tensor:
        """uint8 [HEADER_BYTES] on the CPU."""
        fields = _FIELDS.pack(_MAGIC, self.slot, self.generation, self.sequence, self.nbytes)
        packed = (fields + _SUM.pack(zlib.crc32(fields))).ljust(HEADER_BYTES, b"\0")
        return torch.frombuffer(bytearray(packed), dtype=torch.uint8)

    @classmethod
    def unpack(cls, packed: Tensor) -> PayloadHeader | None:
        """uint8 [HEADER_BYTES] on any device -> the header; None when the slot is being written, or never was.

        Raises ChannelError when the header is damaged.
        """
        data = packed.cpu().numpy().tobytes()
        if not any(data):
            return None
        magic, slot, generation, sequence, nbytes = _FIELDS.unpack_from(data)
        (found,) = _SUM.unpack_from(data, _FIELDS.size)
        if magic != _MAGIC or found != zlib.crc32(data[: _FIELDS.size]):
            raise ChannelError("the header of a payload is damaged")
        return cls(slot, generation, sequence, nbytes)
