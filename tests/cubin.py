"""What a cubin says of itself, read from its ELF: CUDA's own tools are not everywhere."""

from __future__ import annotations

import struct
from typing import NamedTuple

CUDA_MACHINE = 190


class Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int


class Symbol(NamedTuple):
    name: str
    section: int
    value: int
    size: int


class Cubin:
    """Sections and symbols of a 64-bit little-endian ELF. Raises ValueError for anything else."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF")
        self.data = data
        self.machine = struct.unpack_from("<H", data, 18)[0]
        self.flags = struct.unpack_from("<I", data, 48)[0]
        table, entry, count, names = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HHH", data, 58)
        raw = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]
        strings = raw[names][4]
        self.sections = [Section(self._text(strings + r[0]), r[1], r[4], r[5]) for r in raw]
        self.symbols = []
        for number, one in enumerate(self.sections):
            if one.kind == 2:  # SHT_SYMTAB, whose link is its string table
                linked = raw[raw[number][6]][4]
                for at in range(one.offset, one.offset + one.size, 24):
                    name, _, _, section, value, size = struct.unpack_from("<IBBHQQ", data, at)
                    self.symbols.append(Symbol(self._text(linked + name), section, value, size))

    @property
    def arch(self) -> int:
        """87 for sm_87: bits 8 to 15 of the flags in today's format, 0 to 7 in the one before CUDA 13."""
        return (self.flags >> 8) & 0xFF if self.data[8] >= 8 else self.flags & 0xFF

    def constant(self, name: str) -> bytes:
        """The initial value of a variable."""
        found = next(symbol for symbol in self.symbols if symbol.name == name)
        start = self.sections[found.section].offset + found.value
        return self.data[start : start + found.size]

    def _text(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode()
