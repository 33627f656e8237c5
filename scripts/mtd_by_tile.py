"""Magnetic tiles split by tile: no tile has photos on both sides, as no part of tomorrow was photographed yesterday.

    python scripts/mtd_by_tile.py MTD OUT

MTD (Huang, Qiu, Yuan 2018, doi:10.1007/s00371-018-1588-5) shows each tile under up to six exposures, numbered on:
`exp1_num_116270.jpg`, `exp2_num_116286.jpg`, ... so a run of rising exposures is one tile. MTD is a folder in MVTec AD
layout with those names; OUT becomes another one, with the tile in front of each name (`tile017_exp2.jpg`), so that
`train --part '(tile[0-9]+)_'` keeps tiles together on its sides too. A fifth of the good tiles, drawn by a hash, is for
testing, and so are all defective ones. Files are hard links where that is possible, else copies.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mtkd_edge.errors import DataError, MtkdError

NAME = re.compile(r"exp(\d+)_num_(\d+)")
APART = 400
"""Numbers further apart than this are another tile, whatever the exposures."""
TESTED = 0.2


class Shot(NamedTuple):
    """One photo: its running number, its exposure, its kind and where it is."""

    number: int
    exposure: int
    kind: str
    path: Path


def tiles(shots: list[Shot]) -> list[list[Shot]]:
    """Runs of rising exposures of one kind, in the order of the numbers."""
    found: list[list[Shot]] = []
    for shot in sorted(shots):
        last = found[-1][-1] if found else None
        together = last is not None and last.kind == shot.kind and last.exposure < shot.exposure
        if last is not None and together and shot.number - last.number <= APART:
            found[-1].append(shot)
        else:
            found.append([shot])
    return found


def shots_of(root: Path) -> list[Shot]:
    """All photos of the data set. Raises DataError where there are none, or one has another name."""
    paths = sorted([*root.glob("train/good/*"), *root.glob("test/*/*")])
    if not paths:
        raise DataError(f"{root} holds no train/good/ and no test/", "name the folder of MTD in MVTec AD layout")
    shots = []
    for path in paths:
        found = NAME.search(path.name)
        if found is None:
            raise DataError(f"{path} is not named exp<n>_num_<n> as MTD's photos are", "take the names of the download")
        shots.append(Shot(int(found[2]), int(found[1]), path.parent.name, path))
    return shots


def split(root: Path, out: Path) -> Counter[str]:
    """Write the new layout; returns how many photos each folder got. Raises DataError, also where OUT exists."""
    if out.exists():
        raise DataError(f"{out} exists already", "name a folder that does not")
    found = tiles(shots_of(root))
    good = [tile for tile in found if tile[0].kind == "good"]
    drawn = sorted(good, key=lambda tile: hashlib.sha256(str(tile[0].number).encode()).hexdigest())
    tested = {tile[0].number for tile in drawn[: round(TESTED * len(good))]}
    counts: Counter[str] = Counter()
    for i, tile in enumerate(found):
        kind = tile[0].kind
        side = "train" if kind == "good" and tile[0].number not in tested else "test"
        for shot in tile:
            stem = f"tile{i:03d}_exp{shot.exposure}"
            _link(shot.path, out / side / kind / f"{stem}{shot.path.suffix}")
            mask = root / "ground_truth" / kind / f"{shot.path.stem}_mask.png"
            if mask.is_file():
                _link(mask, out / "ground_truth" / kind / f"{stem}_mask.png")
            counts[f"{side}/{kind}"] += 1
    return counts


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    if len(arguments) != 2:
        print("usage: python scripts/mtd_by_tile.py MTD OUT", file=sys.stderr)
        return 2
    try:
        for folder, count in sorted(split(Path(arguments[0]), Path(arguments[1])).items()):
            print(f"{count:5d}  {folder}")
    except MtkdError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
