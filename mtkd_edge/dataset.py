"""A folder of photos as one frozen value: what is in it, which side each photo falls on, and what is wrong with it.

Two layouts are known:

    folder   any tree of photos of good parts
    mvtec    train/good/*, test/<kind>/* ("good" is normal), ground_truth/<kind>/<name>_mask.png

Good photos fall by the hash of their content on one of three sides: `train` (75 %), `tune` (10 %, normalises the maps)
and `held-out` (15 %, threshold and gate). Names and folders have no part in it, so a photo that is renamed, or that
comes back in a larger collection, stays on its side. Only in small folders, where the lowest hashes fill up `held-out`
and `tune` to four photos each, may new photos send some of them back to `train`. Where a part was photographed more
than once, its photos belong on one side: `scan(part=...)` says how their names tell.

This file knows nothing of frames' size, networks or scores; it decodes each photo once, to see that it can be decoded.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mtkd_edge import frames
from mtkd_edge.errors import DataError
from mtkd_edge.files import UNREADABLE
from mtkd_edge.listing import Facts, Problem, inspect, photos_under
from mtkd_edge.progress import Progress, silent

Side = Literal["train", "tune", "held-out"]
MINIMUM = 12
"""Good photos without which nothing can be trained: four on each side."""
SMALLEST_SIDE = 4
HELD_OUT, TUNE = 0.15, 0.10
ODD = 1.5
"""Sides or aspect ratios further from the median than this factor are odd, unless the whole folder varies more."""


class Photo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A photo of a good part. `path` is relative to the root, with forward slashes; sizes are after EXIF rotation."""

    path: str
    sha256: str
    side: Side
    height: int
    width: int


class TestPhoto(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A photo to evaluate on. `kind` "good" is normal; `mask` is the path of the defect's mask, None without one."""

    __test__ = False  # for pytest: not a test class

    path: str
    kind: str
    mask: str | None


class Dataset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `scan` found. `white` is full white of the 16-bit photos (frames.WHITES), 65535 where all have 8 bits."""

    root: str
    layout: Literal["folder", "mvtec"]
    photos: tuple[Photo, ...]
    test: tuple[TestPhoto, ...]
    problems: tuple[Problem, ...]
    white: int

    def side(self, side: Side) -> tuple[Path, ...]:
        """The photos of one side, as paths that can be opened, in a fixed order."""
        return tuple(Path(self.root, photo.path) for photo in self.photos if photo.side == side)


_datasets = msgspec.json.Decoder(Dataset)


def scan(root: Path, progress: Progress = silent, needed: int = MINIMUM, part: str = "") -> Dataset:
    """Look at every photo under `root` once, in threads.

    Unreadable, empty and duplicate photos are left out and named in `problems`; odd-sized ones, and grey ones among
    colour ones, are kept and named. `needed=0` is for evaluation alone: then `test/` suffices. `part` is a pattern
    (`re`) that finds in a photo's relative path which part it shows: photos of one part stay on one side. Raises
    DataError where the folder is missing, holds no photos, or holds fewer good ones than `needed`.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}, wanted a folder with photos of good parts", "mtkd-edge train ./photos")
    root = root.resolve()
    layout = _layout(root, needed)
    good_names, problems = photos_under(root, "train/good" if layout == "mvtec" else "")
    test_names, test_problems = photos_under(root, "test") if layout == "mvtec" else ([], [])
    facts, unreadable = inspect(root, good_names + test_names, progress)
    unique, doubled = _unique(facts, trained := frozenset(good_names))
    good = [fact for fact in unique if fact.path in trained]
    if len(good) < needed:
        raise _too_few(root, layout, len(good), needed, [*problems, *unreadable, *doubled])
    test = unique[len(good) :]
    tests, mask_problems = _tests(root, test)
    return Dataset(
        root=str(root),
        layout=layout,
        photos=_split(good, part),
        test=tests,
        problems=(*problems, *test_problems, *unreadable, *doubled, *_odd(good, test), *mask_problems),
        white=max((fact.white for fact in good), default=0) or 65535,
    )


def encode(dataset: Dataset) -> bytes:
    """The dataset as readable JSON."""
    return msgspec.json.format(msgspec.json.encode(dataset), indent=1) + b"\n"


def decode(text: bytes, where: str) -> Dataset:
    """The dataset back. Raises DataError naming `where`."""
    try:
        return _datasets.decode(text)
    except UNREADABLE as error:
        raise DataError(f"{where} is not a listing of photos: {error}", "mtkd-edge train makes a new one") from error


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file -> bool [H, W], True where the defect is (any value above 0). Raises DataError."""
    return np.asarray(frames.read(path).any(axis=2))


def _layout(root: Path, needed: int) -> Literal["folder", "mvtec"]:
    if (root / "train" / "good").is_dir() or (not needed and (root / "test").is_dir()):
        return "mvtec"
    # as a plain folder the defects of test/ would be trained on as good parts
    strange = [name for name in ("train", "test", "ground_truth") if (root / name).is_dir()]
    if "test" in strange or "ground_truth" in strange:
        raise DataError(
            f"{root} has {'/, '.join(strange)}/ but no train/good/: neither MVTec layout nor a folder of good parts",
            "put the photos of good parts into train/good/, or name the folder that holds nothing else",
        )
    return "folder"


def _too_few(root: Path, layout: str, usable: int, needed: int, problems: Sequence[Problem]) -> DataError:
    where = root / "train" / "good" if layout == "mvtec" else root
    if not usable and not problems:
        wanted = " ".join(sorted(frames.SUFFIXES))
        endings = sorted({p.suffix.lower() for p in where.rglob("*") if p.is_file() and p.suffix})
        found = f"; it holds {' '.join(endings[:8])} files" if endings else "; it is empty"
        return DataError(f"{where} holds no photos: looked for {wanted}{found}", "mtkd-edge train ./photos")
    named = "".join(f"\n  {problem.path}: {problem.what}" for problem in problems[:5])
    more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
    count = f"{usable} usable photo{'' if usable == 1 else 's'} of good parts"
    missing = needed - usable
    return DataError(
        f"{where} holds {count}, at least {needed} are needed{named}{more}",
        f"add {missing} more photo{'' if missing == 1 else 's'}",
    )


def _unique(facts: Sequence[Facts], good: frozenset[str]) -> tuple[list[Facts], list[Problem]]:
    """The facts without copies, good photos first, in the order of their paths; and the copies that were left out."""
    first: dict[str, str] = {}
    kept, problems = [], []
    for fact in sorted(facts, key=lambda fact: (fact.path not in good, fact.path)):
        original = first.setdefault(fact.sha256, fact.path)
        if original == fact.path:
            kept.append(fact)
        else:
            leak = ", which is trained on" if original in good and fact.path not in good else ""
            problems.append(Problem(fact.path, f"duplicate, left out: the same bytes as {original}{leak}"))
    return kept, problems


def _split(good: Sequence[Facts], part: str) -> tuple[Photo, ...]:
    """Lowest hashes are held out, the next ones tune, the rest train. Photos of one part have one hash, so one side."""
    keyed = sorted((_key(fact, part), fact.sha256, fact) for fact in good)
    shares = np.array([int(key[:13], 16) / 16**13 for key, _, _ in keyed])

    def whole(count: int) -> int:
        """`count`, or more, so that no part is cut in two."""
        while 0 < count < len(keyed) and keyed[count][0] == keyed[count - 1][0]:
            count += 1
        return count

    def upto(start: int, share: float, others: int) -> int:
        """Where the side from `start` on ends, by hashes below `share`; `others` come after it and need room as well.

        Hashes of few photos may all be low, and each side has its least, the last one too.
        """
        least = start + SMALLEST_SIDE
        return whole(max(least, min(int((shares < share).sum()), len(keyed) - others * SMALLEST_SIDE)))

    held_out = upto(0, HELD_OUT, 2)
    tune = upto(held_out, HELD_OUT + TUNE, 1)
    if part and len(keyed) - tune < SMALLEST_SIDE:
        parts = len({key for key, _, _ in keyed})
        raise DataError(
            f"{part!r} sorts {len(keyed)} photos into {parts} parts, too few for three sides of whole parts",
            "give a pattern that tells more parts apart, or leave --part out",
        )

    def side(rank: int) -> Side:
        if rank < held_out:
            return "held-out"
        return "tune" if rank < tune else "train"

    photos = [Photo(f.path, f.sha256, side(rank), f.height, f.width) for rank, (_, _, f) in enumerate(keyed)]
    return tuple(sorted(photos, key=lambda photo: photo.path))


def _key(fact: Facts, part: str) -> str:
    """What decides a photo's side, 64 hex digits: its content, or with a pattern the part that its path names."""
    if not part:
        return fact.sha256
    found = re.search(part, fact.path)
    if found is None:
        raise DataError(f"{fact.path} names no part: {part!r} is not found in it", "give a pattern that all paths hold")
    return hashlib.sha256("|".join(found.groups("") or (found[0],)).encode()).hexdigest()


def _odd(good: Sequence[Facts], test: Sequence[Facts]) -> list[Problem]:
    """Photos unlike the median good one in size, shape or colour: kept, but named."""
    if not good:
        return []
    sizes = np.log([(fact.height * fact.width, fact.width / fact.height) for fact in good]) * (0.5, 1)
    middle = np.median(sizes, axis=0)
    # 5 robust standard deviations: a folder of many sizes has no odd ones
    limit = np.maximum(np.log(ODD), 5 * 1.4826 * np.median(np.abs(sizes - middle), axis=0))
    grey = sum(fact.grey for fact in good) * 2 > len(good)
    problems = []
    for fact in (*good, *test):
        size = np.log((fact.height * fact.width, fact.width / fact.height)) * (0.5, 1)
        if (np.abs(size - middle) > limit).any():
            problems.append(Problem(fact.path, f"odd size, kept: {fact.height} x {fact.width} (height x width)"))
        if fact.grey != grey:
            here, there = ("grey", "in colour") if fact.grey else ("in colour", "grey")
            problems.append(Problem(fact.path, f"mixed colour, kept: {here}, while most good photos are {there}"))
    return problems


def _tests(root: Path, test: Sequence[Facts]) -> tuple[tuple[TestPhoto, ...], list[Problem]]:
    """Test photos with their kinds and masks; a mask that does not fit its photo is left out and named."""
    photos, problems = [], []
    for fact in test:
        kind, _, name = fact.path.removeprefix("test/").partition("/")
        if not name:
            problems.append(Problem(fact.path, "no kind, left out: wanted test/<kind>/<name>"))
            continue
        path = f"ground_truth/{kind}/{Path(name).with_suffix('')}_mask.png"
        mask = None
        if kind != "good" and (root / path).is_file():
            try:
                shape = read_mask(root / path).shape
            except DataError as error:
                problems.append(Problem(path, f"bad mask, left out: {error.message}"))
            else:
                if shape == (fact.height, fact.width):
                    mask = path
                else:
                    size = f"{shape[0]} x {shape[1]}, its photo is {fact.height} x {fact.width}"
                    problems.append(Problem(path, f"bad mask, left out: {size}"))
        photos.append(TestPhoto(fact.path, kind, mask))
    return tuple(photos), problems


def report(dataset: Dataset, lines: int = 5) -> str:
    """What was found, for people: counts, sizes, and the problems by group, at most `lines` photos of each named."""
    sides = ", ".join(f"{len(dataset.side(side))} {side}" for side in ("train", "tune", "held-out"))
    text = [f"{len(dataset.photos)} photos of good parts in {dataset.root}: {sides}"]
    if dataset.photos:
        sizes = np.array([(photo.height, photo.width) for photo in dataset.photos])
        (low_h, low_w), (mid_h, mid_w), (top_h, top_w) = np.quantile(sizes, (0, 0.5, 1), axis=0, method="nearest")
        span = "all" if (sizes == sizes[0]).all() else f"{low_h} x {low_w} to {top_h} x {top_w}, median"
        text.append(f"size (height x width): {span} {mid_h} x {mid_w}")
    if dataset.white != 65535:
        text.append(f"16-bit photos: full white is {dataset.white}")
    if dataset.test:
        kinds = Counter(photo.kind for photo in dataset.test)
        masks = sum(photo.mask is not None for photo in dataset.test)
        counts = ", ".join(
            f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: item[0] != "good")
        )
        text.append(f"{len(dataset.test)} test photos: {counts}; {masks} masks")

    def group(problem: Problem) -> str:
        return problem.what.partition(": ")[0]

    for name, found in groupby(sorted(dataset.problems, key=group), group):
        problems = list(found)
        text.append(f"{len(problems)} x {name}")
        text += [f"  {problem.path}: {problem.what.partition(': ')[2]}" for problem in problems[:lines]]
        if len(problems) > lines:
            text.append(f"  and {len(problems) - lines} more")
    return "\n".join(text)
