"""The kernel's tests can fail: every mutant of its text (constant, index, sign, comparison, barrier) is caught.

A mutant is caught by a result that is not the oracle's, by bits that change with the schedule of the threads, by a
verdict that hides NaN, or by what the host build reports. Those that only a GPU could catch are named at the end.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("torch", reason="shares its table of cases with the torch head")
if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)

from kernel_cases import assert_same, build, features, level, run_kernel, run_oracle

from mtkd_edge.device.kernel import header, layout
from mtkd_edge.errors import BackendError
from mtkd_edge.score import ScoreSpec

# every path of the text: three kinds, words of 4, 2 and 1, folded channels, one and many lanes, rows in two rounds,
# pixels of either sign among the largest
SPEC = ScoreSpec(
    (level("cosine", 340, 8, 8, 0.4, 1), level("distance", 19, 5, 6, -0.3, 2), level("squared", 24, 1, 1, 0.5),
     level("squared", 2, 9, 5, 0.1)), 21, 33, 1.3, 0.97,
)  # fmt: skip
# rows in bands, a map that is not kept in shared memory, its maximum
TALL = ScoreSpec((level("distance", 1, 3, 150), level("squared", 2, 20, 90)), 70, 175, 0.8, 1e-9)
# a map that never looks at the last row
MEAN = ScoreSpec((level("squared", 2, 30, 5),), 7, 20, 0.0, 1.0)

MUTANTS = {
    # distances.cuh
    "tiles of two words": ("blockDim.x / L.lanes * L.vector;", "blockDim.x / L.lanes * L.vector * 2;"),
    "a tile too few": ("(L.entries + entries - 1) / entries", "L.entries / entries"),
    "lanes next to each other": ("threadIdx.x % columns, lane = threadIdx.x / columns",
                                 "threadIdx.x / L.lanes, lane = threadIdx.x % L.lanes + (columns > 8)"),
    "no word beyond the first": ("entry = begin + column * V", "entry = begin + column"),
    "image 0 for all": ("size_t(image) * L.rows * L.entries + entry", "entry"),
    "student twice": ("static_cast<const FEATURE *>(features.reference[I])",
                      "static_cast<const FEATURE *>(features.student[I])"),
    "level 0 for all": ("features.student[I])", "features.student[0])"),
    "first channel left out": ("row = lane; row < L.rows", "row = lane + 1; row < L.rows"),
    "last channel left out": ("if (next >= L.rows) continue", "if (next >= L.rows - 1) continue"),
    "rounds overlap": ("row += L.lanes * L.at_once", "row += L.lanes"),
    "only one round": ("row += L.lanes * L.at_once", "row += L.rows"),
    "no lanes within a round": ("next = row + i * L.lanes", "next = row + i"),
    "sum instead of difference": ("s[v] - t[v]", "s[v] + t[v]"),
    "square of the student": ("fmaf(difference, difference,", "fmaf(difference, s[v],"),
    "norm of the student twice": ("fmaf(t[v], t[v],", "fmaf(s[v], s[v],"),
    "no dot product": ("fmaf(s[v], t[v],", "fmaf(s[v], s[v],"),
    "the last lane is not added": ("l < L.lanes; l++", "l < L.lanes - (L.lanes > 1); l++"),
    "folded channels are dropped": ("f < L.fold; f++", "f < 1; f++"),
    "terms mixed": ("(term * L.lanes + l) * entries", "l * entries"),
    "no barrier before lanes are added": ("sums[term][v];\n    __syncthreads();", "sums[term][v];"),
    "one position too far": ("if (position >= L.positions) break;", "if (position > L.positions) break;"),
    "sum, not mean": ("sums[0] / L.channels", "sums[0]"),
    "no square root": ("d = sqrtf(d)", "d = d"),
    "no epsilon": ("(norms + EPSILON)", "norms"),
    "cosine, not its distance": ("d = 1.f - sums[0]", "d = 1.f + sums[0]"),
    "a norm beyond float32 passes": ("+ (norms - norms)", ""),
    "center added": ("(d - center[at])", "(d + center[at])"),
    "one center for all": ("position * L.by_position", "0"),
    "no gain": ("* gain[at]", ""),
    "levels on top of each other": ("distances[L.offset + position]", "distances[position]"),
    # map.cuh
    "rows of level 0": ("y_first[I * MAP_H + y]", "y_first[y]"),
    "weights of level 0": ("y_weight[L.y_table +", "y_weight["),
    "next tap in the row": ("from[k * L.width]", "from[k]"),
    "all bands at the top": ("y = top + i / L.width", "y = i / L.width"),
    "columns of level 0": ("x_first[I * MAP_W + x]", "x_first[x]"),
    "x weights transposed": ("x_weight[L.x_table + k * MAP_W + x]", "x_weight[L.x_table + x * L.x_taps + k]"),
    "a tap left out": ("k < L.x_taps; k++", "k < L.x_taps - 1; k++"),
    "a row left out": ("k < L.y_taps; k++", "k < L.y_taps - (L.y_taps > 1); k++"),
    "only the last level": ("totals[side] += sums[side]", "totals[side] = sums[side]"),
    "no barrier before columns": ("blend_rows<0>(distances, top, rows);\n        __syncthreads();",
                                  "blend_rows<0>(distances, top, rows);"),
    "no barrier before the next band": ("        }\n        __syncthreads();\n    }\n    return met;",
                                        "        }\n    }\n    return met;"),
    "unread positions may be NaN": ("finite(distances[i]) ? 0 : MET_BAD", "0"),
    "a row is made once only": ("y = i / MAP_W * SIDE", "y = i / MAP_W"),
    "rows below the map": ("side < SIDE && top + y + side < MAP_H", "side < SIDE"),
    # pool.cuh
    "negative floats keep their order": ("? ~bits : bits | 0x80000000u", "? bits : bits | 0x80000000u"),
    "value of negative keys": ("key & 0x7fffffffu : ~key", "key & 0x7fffffffu : key"),
    "stop a digit early": ("shift >= 0; shift -= DIGIT", "shift > 0; shift -= DIGIT"),
    "count all pixels": ("if ((key & decided) == prefix)", "if (true)"),
    "rank kept between digits": ("digit--) rank -= totals[digit]", "digit--) rank -= 0"),
    "one rank too few": ("totals[digit] < rank;", "totals[digit] + 1 < rank;"),
    "copies left out": ("copy < COPIES; copy++", "copy < COPIES - 1; copy++"),
    "counts not reset": ("counts[i] = 0;", "if (shift == 32 - DIGIT) counts[i] = 0;"),
    "no barrier after reset": ("counts[i] = 0;\n        __syncthreads();", "counts[i] = 0;"),
    "no barrier after counting": ("1u);\n        }\n        __syncthreads();", "1u);\n        }"),
    "no barrier after totals": ("totals[bin] = total;\n        }\n        __syncthreads();",
                                "totals[bin] = total;\n        }"),
    "ties counted twice": ("key_of(pixels[i]) > least", "key_of(pixels[i]) >= least"),
    "ties forgotten": ("+ rank * value_of(least))", ")"),
    "mean of another number": ("value_of(least)) / POOLED", "value_of(least)) / (POOLED + 1)"),
    "a strand left out": ("strand = threadIdx.x; strand < STRANDS", "strand = threadIdx.x; strand < STRANDS - 1"),
    "a knot left out": ("knot < KNOTS; knot++) total", "knot < KNOTS - 1; knot++) total"),
    "no barrier after strands": ("strands[strand] = sum;\n    }\n    __syncthreads();",
                                 "strands[strand] = sum;\n    }"),
    "no barrier after knots": ("knots[knot] = sum;\n    }\n    __syncthreads();", "knots[knot] = sum;\n    }"),
    "mean of one pixel too many": ("true, work) / PIXELS", "true, work) / (PIXELS + 1)"),
    # score.cu
    "ticket never wraps": ("atomicInc(ticket, tiles - 1)", "atomicInc(ticket, tiles)"),
    "first tile completes": ("*turn == unsigned(tiles) - 1", "*turn == 0"),
    "one ticket for all": ("completes(tickets + image,", "completes(tickets,"),
    "ticket unread": ("    }\n    __syncthreads();\n    return *turn", "    }\n    return *turn"),
    "scratch of image 0": ("distances + size_t(image) * POSITIONS", "distances"),
    "map of image 0": ("map + size_t(image) * PIXELS", "map"),
    "NaN is pooled": ("bad ? __uint_as_float(0x7fc00000u) :", ""),
    "bad in one thread only": ("__syncthreads_or(met & MET_BAD)", "(met & MET_BAD)"),
    "region in one thread only": ("__syncthreads_or(met & MET_ABOVE)", "(met & MET_ABOVE)"),
    "region at the threshold": ("totals[side] > threshold", "totals[side] >= threshold"),
    "map threshold in single precision": ("totals[side] > threshold", "totals[side] > float(threshold)"),
    "region by the other threshold": ("kept, work, map_threshold)", "kept, work, threshold)"),
    "region bit of a bad map": ("(above ? REGION : 0)", "(bad ? REGION : 0)"),
    "kept on top of work": ("*kept = work + WORK", "*kept = work"),
    "at the threshold": ("value > threshold", "value >= threshold"),
    "threshold in single precision": ("value > threshold", "value > float(threshold)"),
    "invalid looks normal": ("finite(value) ? 0 : INVALID", "0"),
    "the next tile comes too early": ("        }\n        __syncthreads();  // the next tile",
                                     "        }\n        // "),
}  # fmt: skip
BEYOND_THE_HOST = (
    "__threadfence();  // ... before",
    "__threadfence();  // and those",
    "    __syncthreads();  // the block's",
)
"""Lines that order memory between blocks: the host runs one block at a time, so there they change nothing."""
LAUNCHES = [{}, {"order": 1, "block": 64}, {"order": 2, "grid": 1}, {"order": 3, "grid": 2, "block": 32}]


def probe(spec: ScoreSpec, text: str) -> None:
    """AssertionError or BackendError unless `text` is the score of `spec`."""
    student, reference = features(spec, 3, 11)
    exact = run_oracle(spec, student, reference)
    usual = run_kernel(spec, student, reference, text)
    threshold, peaks = float(usual.scores[1]), usual.maps.max((1, 2)).astype(np.float64)
    for number, launch in enumerate(LAUNCHES):
        # at the second score, then just below it, nearer than single precision can say
        given = np.nextafter(threshold, -np.inf) if number else threshold
        top = np.nextafter(peaks[2], -np.inf) if number else peaks[2]
        found = run_kernel(spec, student, reference, text, threshold=given, map_threshold=top, **launch)
        assert_same([found.maps, found.scores], exact)
        assert found.maps.tobytes() == usual.maps.tobytes()
        assert found.scores.tobytes() == usual.scores.tobytes()
        bits = (usual.scores.astype(np.float64) > given) + 4 * (peaks > top)
        np.testing.assert_array_equal(found.verdicts, bits.astype(np.uint32))
        assert not found.tickets.any()
    for number, one in enumerate(spec.levels):
        bad = [array.copy() for array in student]
        bad[number][2, 0, one.height - 1, one.width // 2] = np.nan
        bad[number][1] *= 1e20
        assert run_kernel(spec, bad, reference, text).verdicts.tolist() == [0, 2, 2]
    zeros = [np.zeros_like(array) for array in student]
    assert_same([run_kernel(spec, zeros, zeros, text).maps], run_oracle(spec, zeros, zeros)[:1])


def texts(spec: ScoreSpec) -> dict[str, str]:
    """The source of every mutant. A mutation whose text is gone from the kernel is an error, not a pass."""
    whole = header.source(layout.layout(spec))
    for name, (old, _) in MUTANTS.items():
        assert whole.count(old) == 1, f"{name}: {old!r} is {whole.count(old)} times in the kernel"
    return {name: whole.replace(old, new) for name, (old, new) in MUTANTS.items()}


@pytest.fixture(scope="module")
def compiled() -> None:
    """Mutants for the first spec, built on all cores; `run_kernel` then finds them."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda text: build(layout.layout(SPEC), text), texts(SPEC).values()))


@pytest.mark.parametrize("spec", [SPEC, TALL, MEAN], ids=["all paths", "bands", "mean"])
def test_the_kernel_itself_passes_the_probe(spec):
    probe(spec, header.source(layout.layout(spec)))


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name, compiled):
    assert any(catches(spec, texts(spec)[name]) for spec in (SPEC, TALL, MEAN)), "this mutant passes every check"


def catches(spec: ScoreSpec, text: str) -> bool:
    try:
        probe(spec, text)
    except (AssertionError, BackendError):
        return True
    return False


def test_what_the_host_cannot_catch_is_still_in_the_text():
    whole = header.source(layout.layout(SPEC))
    for line in BEYOND_THE_HOST:
        assert whole.count(line) == 1, line
