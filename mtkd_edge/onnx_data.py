"""Does an ONNX file keep weights in another file? Then it can name any file of the machine, and it is refused.

Graphs made here hold all their weights. The runtimes follow a location of another file on their own, links and `..`
included (CVE-2024-27318, CVE-2025-51480, CVE-2026-27489), so it is looked for before any of them sees the file: a walk
over the protobuf messages that can hold a tensor (onnx.proto3, IR version 13), which skips the tensors' bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from mtkd_edge.errors import BundleError

MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, FUNCTION = range(7)
BELOW: dict[int, dict[int, int]] = {
    MODEL: {7: GRAPH, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    FUNCTION: {7: NODE, 11: ATTRIBUTE},
}
"""For each message, the fields that hold further ones."""
EXTERNAL = frozenset({13, 14})
"""Of a tensor: external_data and data_location."""
DEEPEST = 64
Field = tuple[int, int, int, int]
"""Number, wire type, and where its content begins and ends; of a whole number: that number, twice."""


def demand(path: Path) -> None:
    """Raises BundleError where the file is no ONNX graph, or keeps data elsewhere."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            elsewhere = _elsewhere(data, 0, len(data), MODEL, 0)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is no ONNX graph: {error}", "copy the whole folder again") from error
    if elsewhere:
        raise BundleError(f"{path} keeps weights in another file, which could be any", "do not use this folder")


def _elsewhere(data: mmap.mmap, begin: int, end: int, message: int, depth: int) -> bool:
    if depth > DEEPEST:
        raise ValueError(f"messages within messages, {DEEPEST} deep")
    for number, wire, first, last in _fields(data, begin, end):
        if message == TENSOR:
            if number in EXTERNAL and (wire == 2 or first):
                return True
        elif (
            wire == 2 and number in BELOW[message] and _elsewhere(data, first, last, BELOW[message][number], depth + 1)
        ):
            return True
    return False


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[Field]:
    while at < end:
        key, at = _whole(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _whole(data, at, end)
            yield number, wire, value, value
            continue
        if wire == 2:
            size, at = _whole(data, at, end)
        else:
            size = {1: 8, 5: 4}.get(wire, -1)
        if size < 0 or at + size > end:
            raise ValueError(f"a field of wire type {wire} at byte {at} does not end")
        yield number, wire, at, at + size
        at += size


def _whole(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of protobuf, seven bits a byte, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= end:
            break
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"a number at byte {at} does not end")
