"""The score, five times: float64 oracle, torch, ONNX Runtime, OpenVINO, and the CUDA text on this CPU, from one table.

The kernel's text is compiled by g++ behind a few lines that stand for CUDA, barriers included. What only a GPU can show
is in docs/kernel.md.
"""

from __future__ import annotations

import shutil

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="compares with the torch head")
if shutil.which("g++") is None:
    pytest.skip("the kernel's text needs a compiler: g++", allow_module_level=True)

from kernel_cases import CASES, EXECUTIONS, FOLDER, RUNS, assert_same, features, level, run_kernel, run_oracle

from mtkd_edge.device.kernel import header, host, layout
from mtkd_edge.device.kernel.launcher import ANOMALOUS, INVALID, REGION
from mtkd_edge.errors import BackendError
from mtkd_edge.score import Level, ScoreSpec, pool

BITS = ("maps", "scores", "verdicts", "tickets")


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_every_execution_is_the_oracle(name, kind, execution):
    case = CASES[name]
    student, reference = features(case.spec, case.batch, 0, kind)
    assert_same(EXECUTIONS[execution](case.spec, student, reference), run_oracle(case.spec, student, reference))


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("name", CASES)
def test_constant_maps_and_equal_features(name, execution):
    """Every pixel of a constant map is a tie, and equal features leave only -center."""
    case = CASES[name]
    student, _ = features(case.spec, case.batch)
    constant = [np.full_like(array, 1.5) for array in student]
    zeros = [np.zeros_like(array) for array in student]
    for s, t in ((student, student), (constant, [0.5 * array for array in constant]), (zeros, zeros)):
        assert_same(EXECUTIONS[execution](case.spec, s, t), run_oracle(case.spec, s, t))


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_no_launch_and_no_schedule_changes_one_bit(name, kind):
    """Block and grid sizes, and the order in which threads and blocks happen to run."""
    case = CASES[name]
    student, reference = features(case.spec, case.batch, 1, kind)
    usual = run_kernel(case.spec, student, reference)
    launches = [{"block": 32}, {"block": 64}, {"block": 128, "grid": 3}, {"grid": 1}, {"grid": 2, "order": 9}]
    for launch in [*launches, *({"order": seed} for seed in (1, 2, 3))]:
        again = run_kernel(case.spec, student, reference, **launch)
        for field in BITS:
            assert getattr(again, field).tobytes() == getattr(usual, field).tobytes(), (launch, field)
    assert not usual.tickets.any(), "the next launch needs zeros"


def test_an_image_does_not_depend_on_its_batch():
    spec = CASES["odd"].spec
    student, reference = features(spec, 5, 2)
    together = run_kernel(spec, student, reference)
    for n in range(5):
        alone = run_kernel(spec, [a[n : n + 1] for a in student], [a[n : n + 1] for a in reference])
        assert alone.maps[0].tobytes() == together.maps[n].tobytes()
        assert alone.scores[0].tobytes() == together.scores[n].tobytes()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["odd", "paper", "four levels, maximum", "smaller than its features"])
def test_one_bad_feature_makes_its_image_not_finite_and_no_other(name, bad, execution):
    """In every level, at the first and the last position: those a down-sampled map never looks at, and those that the
    top fraction would leave out because a negative weight makes them minus infinity."""
    spec = CASES[name].spec
    student, reference = features(spec, 3, 3)
    clean = EXECUTIONS[execution](spec, student, reference)[1]
    for number, one in enumerate(spec.levels):
        for at in ((0, 0, 0), (one.channels - 1, one.height - 1, one.width - 1), (0, one.height // 2, one.width - 1)):
            for side in (student, reference):
                kept = side[number][1][at]
                side[number][1][at] = bad
                scores = EXECUTIONS[execution](spec, student, reference)[1]
                side[number][1][at] = kept
                assert not np.isfinite(scores[1]), (one.name, at)
                np.testing.assert_allclose(scores[[0, 2]], clean[[0, 2]], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_features_on_both_sides_are_invalid_and_leave_every_other_bit(bad):
    spec = CASES["four levels, maximum"].spec
    student, reference = features(spec, 3, 4)
    clean = run_kernel(spec, student, reference, threshold=-1e9)
    student[1][1, 0, 3, 3] = reference[1][1, 0, 3, 3] = bad  # inf - inf is NaN, on x86 a negative one
    found = run_kernel(spec, student, reference, threshold=-1e9)
    assert found.verdicts.tolist() == [ANOMALOUS, INVALID, ANOMALOUS]
    assert np.isnan(found.scores[1])
    for n in (0, 2):
        assert found.maps[n].tobytes() == clean.maps[n].tobytes()
        assert found.scores[n].tobytes() == clean.scores[n].tobytes()


@pytest.mark.parametrize("kind", ["squared", "distance", "cosine"])
def test_what_single_precision_cannot_hold_is_invalid_and_never_a_wrong_number(kind):
    spec = ScoreSpec((level(kind, 8, 4, 4),), 8, 8, 1.0, 0.1)
    student, reference = features(spec, 2)
    student[0][1] *= 1e20  # its square is beyond single precision
    found = run_kernel(spec, student, reference)
    assert found.verdicts.tolist() == [0, INVALID]


def test_verdict_bits_are_those_of_decide():
    spec = CASES["odd"].spec
    student, reference = features(spec, 1)
    score = float(run_kernel(spec, student, reference).scores[0])
    below = np.nextafter(score, -np.inf)  # in double precision: nearer than any single one
    cases = {score: 0, below: ANOMALOUS, np.nextafter(score, np.inf): 0, np.inf: 0, -np.inf: ANOMALOUS, np.nan: 0}
    for threshold, bits in cases.items():
        assert run_kernel(spec, student, reference, threshold=threshold).verdicts[0] == bits, threshold


def test_the_region_bit_says_whether_any_pixel_of_the_map_is_above_its_threshold():
    for name in ("odd", "large map"):
        spec = CASES[name].spec
        student, reference = features(spec, 2)
        maps = run_kernel(spec, student, reference).maps.astype(np.float64)
        top = float(maps[1].max())
        other = REGION if maps[0].max() > top else 0
        for at, bits in ((top, 0), (np.nextafter(top, -np.inf), REGION), (np.nextafter(top, np.inf), 0), (np.nan, 0)):
            found = run_kernel(spec, student, reference, map_threshold=at)
            assert found.verdicts[1] == bits, (name, at)
            assert found.verdicts[0] == (0 if np.isnan(at) else other), (name, at)
    student[0][1, 0, 0, 0] = np.nan
    assert run_kernel(spec, student, reference, map_threshold=-1e9).verdicts.tolist() == [REGION, INVALID | REGION]


@pytest.mark.parametrize("part", [1e-9, 0.004, 0.11, 0.5, 0.997, 1.0])
def test_the_pixels_that_count_are_exactly_the_largest(part):
    """The map is the features themselves, so that values, ties and signs can be chosen."""
    spec = ScoreSpec((Level("m", "squared", 1, 16, 17, -1.0), Level("p", "squared", 1, 16, 17, 1.0)), 16, 17, 0, part)
    rng = np.random.default_rng(5)
    values = rng.choice([-3.0, -0.5, -0.0, 0.0, 1e-30, 2.0, 2.0000002, 5.0], (6, 16, 17)).astype(np.float32)
    values[1] = rng.normal(size=(16, 17))
    values[2], values[3] = 4.0, -4.0
    values[4] = np.float32(1) + np.arange(272).reshape(16, 17) * np.float32(2**-23)  # neighbours in single precision
    roots = np.sqrt(np.abs(values))[:, None]
    student = [np.where(values[:, None] < 0, roots, 0), np.where(values[:, None] >= 0, roots, 0)]
    zeros = [np.zeros_like(array) for array in student]
    found = run_kernel(spec, student, zeros)
    np.testing.assert_allclose(found.maps, values, rtol=3e-7)
    exact = pool(spec, found.maps.astype(np.float64))
    np.testing.assert_allclose(found.scores, exact, rtol=2e-7, atol=1e-9)
    if spec.pooled == 1:
        np.testing.assert_array_equal(found.scores, found.maps.max((1, 2)))


def moved(spec: ScoreSpec, number: int, field: str) -> ScoreSpec:
    """The spec with one kind of constant of one level, or of the whole, off by a little."""
    if field in ("sigma", "pool"):
        return msgspec.structs.replace(spec, **{field: getattr(spec, field) * 1.1})
    levels, value = list(spec.levels), getattr(spec.levels[number], field)
    off = tuple(v * 1.002 for v in value) if isinstance(value, tuple) else value * 1.002
    levels[number] = msgspec.structs.replace(levels[number], **{field: off})
    return msgspec.structs.replace(spec, levels=tuple(levels))


@pytest.mark.parametrize("field", ["weight", "center", "scale", "sigma", "pool"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_comparison_can_fail(number, field):
    """A constant that is off by 0.2 %, or the shape of the smoothing or pooling by a tenth, is noticed."""
    spec = CASES["odd"].spec
    student, reference = features(spec, 2)
    found = run_kernel(spec, student, reference)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_same([found.maps, found.scores], run_oracle(moved(spec, number, field), student, reference))


def test_features_are_read_by_the_widest_word_that_fits():
    """(entries, vector, lanes) of each level: 16 bytes where rows allow it, and lanes with enough channels each."""
    found = {name: [(one.entries, one.vector, one.lanes) for one in layout.layout(case.spec).levels]
             for name, case in CASES.items()}  # fmt: skip
    assert found["default"] == [(1024, 4, 32), (1024, 4, 8)]
    assert found["paper"] == [(4, 4, 16), (4, 4, 16), (1600, 4, 1)]
    assert found["odd"] == [(117, 1, 1), (6, 2, 1), (1, 1, 1)]
    half = layout.layout(CASES["default"].spec, "float16").levels
    assert [(one.vector, one.at_once) for one in half] == [(8, 9), (8, 10)]


def test_the_floor_counts_every_feature_and_every_result_once():
    spec = CASES["default"].spec
    assert layout.layout(spec).traffic(3) == 3 * (4 * 2 * (272 + 80) * 32 * 32 + 4 * 64 * 64 + 8)
    assert layout.layout(spec, "float16").traffic() == 2 * 2 * (272 + 80) * 32 * 32 + 4 * 64 * 64 + 8


def test_the_digest_tells_specs_types_and_arguments_apart(monkeypatch):
    spec = CASES["odd"].spec
    seen = [layout.layout(spec).digest(), layout.layout(spec, "float16").digest()]
    seen.append(layout.layout(moved(spec, 0, "weight")).digest())
    monkeypatch.setattr(layout, "ABI", layout.ABI + 1)
    seen.append(layout.layout(spec).digest())
    assert len(set(seen)) == 4
    assert f"#define DIGEST 0x{seen[3]}ULL" in header.header(layout.layout(spec))


def test_what_the_kernel_cannot_do_is_refused_with_the_reason():
    wide = ScoreSpec((Level("a", "squared", 1, 1, 4000, 1.0),), 8, 8, 0, 1)
    with pytest.raises(ValueError, match="do not fit into 48128 bytes"):
        layout.layout(wide)
    steep = ScoreSpec((Level("a", "squared", 1, 2, 2, 1.0, (0.0,), (1e-300,)),), 2, 2, 0, 1)
    with pytest.raises(ValueError, match="beyond single precision"):
        header.header(layout.layout(steep))
    spec = CASES["odd"].spec
    student, reference = features(spec, 2)
    with pytest.raises(ValueError, match=r"wants \(2, 3, 9, 13\) of float32"):
        host.run(layout.layout(spec), host.build(layout.layout(spec), FOLDER), student, reference[::-1])
    with pytest.raises(BackendError, match="g\\+\\+ does not take the kernel"):
        run_kernel(spec, student, reference, text="no C++")
