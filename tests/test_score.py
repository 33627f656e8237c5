"""The definition of the score, by closed forms, by what must not change it, and against others' bilinear resize."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_edge import score
from mtkd_edge.score import Level, ScoreSpec, oracle, pool, resampler

KINDS = get_args(get_type_hints(Level)["kind"])
# the distance of a student that is s everywhere from a reference that is t everywhere, both positive
CLOSED = {
    "squared": lambda s, t, c: (s - t) ** 2,
    "distance": lambda s, t, c: abs(s - t),
    "cosine": lambda s, t, c: 1 - s * t * c / (s * t * c + score.EPSILON),
}


def spec_of(kind: str = "squared", sigma: float = 1.0, pool: float = 0.1, **changes: object) -> ScoreSpec:
    level = {"name": "a", "kind": kind, "channels": 5, "height": 4, "width": 6, "weight": 1.0, **changes}
    return ScoreSpec((Level(**level),), height=16, width=24, sigma=sigma, pool=pool)  # type: ignore[arg-type]


def pair(n: int = 3, seed: int = 0, shape: tuple[int, ...] = (5, 4, 6)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *shape)), rng.normal(size=(n, *shape))


@pytest.mark.parametrize("kind", KINDS)
@given(s=st.floats(0.1, 50), t=st.floats(0.1, 50), center=st.floats(-3, 3), scale=st.floats(0.01, 9))
def test_constant_features_give_the_closed_form_everywhere(
    kind: str, s: float, t: float, center: float, scale: float
) -> None:
    spec = spec_of(kind, weight=0.7, center=(center,), scale=(scale,))
    features = np.ones((2, 5, 4, 6))
    maps, scores = oracle(spec, [s * features], [t * features])
    wanted = 0.7 * (CLOSED[kind](s, t, 5) - center) / scale
    np.testing.assert_allclose(maps, wanted, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scores, wanted, rtol=1e-9, atol=1e-9)


def test_a_feature_of_zeros_has_cosine_distance_one_and_not_nan() -> None:
    _, reference = pair(1)
    maps, _ = oracle(spec_of("cosine"), [np.zeros_like(reference)], [reference])
    np.testing.assert_allclose(maps, 1)


def test_two_levels_add_with_their_weights() -> None:
    one, other = pair(2, 1), pair(2, 2, (3, 8, 8))
    first = spec_of("squared").levels[0]
    second = Level("b", "cosine", 3, 8, 8, -0.5)
    both = ScoreSpec((first, second), 16, 24, 1.0, 0.1)
    alone = [
        oracle(ScoreSpec((level,), 16, 24, 1.0, 0.1), [s], [t])[0]
        for level, (s, t) in zip(both.levels, (one, other), strict=True)
    ]
    maps, _ = oracle(both, [one[0], other[0]], [one[1], other[1]])
    np.testing.assert_allclose(maps, alone[0] + alone[1], atol=1e-12)


def test_the_score_of_the_paper_is_the_case_of_1x1_levels() -> None:
    """Three numbers with three weights: no map, no smoothing, the mean over one pixel."""
    rng = np.random.default_rng(0)
    z, x = rng.normal(size=(2, 4, 1000, 1, 1)), rng.normal(size=(2, 4, 12, 1, 1))
    levels = (
        Level("mse", "squared", 1000, 1, 1, 0.5),
        Level("angle", "cosine", 1000, 1, 1, 2.0),
        Level("rebuilt", "squared", 12, 1, 1, 1.5),
    )
    _, scores = oracle(ScoreSpec(levels, 1, 1, 0, 1), [z[0], z[0], x[0]], [z[1], z[1], x[1]])
    s, t = z[0, ..., 0, 0], z[1, ..., 0, 0]
    cosine = (s * t).sum(1) / (np.linalg.norm(s, axis=1) * np.linalg.norm(t, axis=1))
    wanted = 0.5 * ((s - t) ** 2).mean(1) + 2 * (1 - cosine) + 1.5 * ((x[0] - x[1])[..., 0, 0] ** 2).mean(1)
    np.testing.assert_allclose(scores, wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_batch_do_not_touch_each_other(kind: str) -> None:
    student, reference = pair(4)
    order = [2, 0, 3, 1]
    maps, scores = oracle(spec_of(kind), [student], [reference])
    turned, shuffled = oracle(spec_of(kind), [student[order]], [reference[order]])
    assert np.array_equal(turned, maps[order])
    assert np.array_equal(shuffled, scores[order])
    alone, single = oracle(spec_of(kind), [student[1:2]], [reference[1:2]])
    np.testing.assert_allclose(alone[0], maps[1], atol=1e-12)
    np.testing.assert_allclose(single[0], scores[1], atol=1e-12)


def test_center_and_scale_may_differ_from_position_to_position() -> None:
    """Features exactly at the centre of their position give a map of zeros, one scale above it a map of ones."""
    rng = np.random.default_rng(1)
    center, scale = rng.uniform(0, 4, (4, 6)), rng.uniform(0.5, 3, (4, 6))
    spec = spec_of(center=tuple(center.ravel()), scale=tuple(scale.ravel()))
    for steps in (0, 1):
        student = np.broadcast_to(np.sqrt(center + steps * scale), (1, 5, 4, 6))
        maps, _ = oracle(spec, [student], [np.zeros((1, 5, 4, 6))])
        np.testing.assert_allclose(maps, steps, atol=1e-12)


sizes = st.integers(1, 40)


@given(sizes, sizes, st.just(0.0) | st.floats(0.01, 6))
def test_rows_of_the_resampler_sum_to_one_and_are_never_negative(n_out: int, n_in: int, sigma: float) -> None:
    matrix = resampler(n_out, n_in, sigma)
    assert matrix.shape == (n_out, n_in)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12, err_msg="left and right are alike")


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_without_smoothing_it_is_the_bilinear_resize_of_opencv_and_torch(h: int, w: int, up: int, over: int) -> None:
    torch = pytest.importorskip("torch", reason="compares with torch's interpolate")
    values = np.random.default_rng(0).normal(size=(h, w)).astype(np.float32)
    ours = resampler(h * up, h, 0) @ values @ resampler(w * over, w, 0).T
    assert np.abs(ours - cv2.resize(values, (w * over, h * up), interpolation=cv2.INTER_LINEAR)).max() < 1e-5
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=(h * up, w * over), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=1e-5)


@given(st.integers(2, 10), st.floats(0.3, 4))
def test_smoothing_is_a_gaussian_blur_with_clamped_edges(n: int, sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=(n, n))
    up = cv2.resize(values, (4 * n, 4 * n), interpolation=cv2.INTER_LINEAR)
    side = 2 * math.ceil(4 * sigma) + 1
    wanted = cv2.GaussianBlur(up, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
    matrix = resampler(4 * n, n, sigma)
    np.testing.assert_allclose(matrix @ values @ matrix.T, wanted, atol=1e-6)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_map_is_linear_in_the_weights(first: float, second: float) -> None:
    student, reference = pair(2)

    def map_of(weight: float) -> np.ndarray:
        return oracle(spec_of(weight=weight), [student], [reference])[0]

    np.testing.assert_allclose(map_of(first + second), map_of(first) + map_of(second), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_never_hidden(kind: str, bad: float) -> None:
    """One bad feature of one image makes its score not finite, and leaves the other images alone."""
    student, reference = pair(3)
    clean = oracle(spec_of(kind, pool=0.01), [student], [reference])[1]
    student[1, 2, 0, 0] = bad
    with np.errstate(invalid="ignore"):
        scores = oracle(spec_of(kind, pool=0.01), [student], [reference])[1]
    assert not np.isfinite(scores[1])
    assert np.array_equal(scores[[0, 2]], clean[[0, 2]])


def test_a_nan_that_pooling_would_never_reach_still_makes_the_score_nan() -> None:
    maps = np.arange(16.0 * 24).reshape(1, 16, 24)
    maps[0, 0, 0] = np.nan
    for part in (1e-9, 0.5, 1.0):
        assert np.isnan(pool(spec_of(pool=part), maps)).all()


@given(st.floats(1e-6, 1), st.integers(0, 2**32 - 1))
def test_pooling_is_the_mean_of_the_largest_pixels(part: float, seed: int) -> None:
    maps = np.random.default_rng(seed).normal(size=(2, 16, 24)).round(1)  # with ties
    spec = spec_of(pool=part)
    count = max(1, round(part * 16 * 24))
    assert spec.pooled == count
    wanted = np.sort(maps.reshape(2, -1), axis=1)[:, ::-1][:, :count].mean(1)
    np.testing.assert_allclose(pool(spec, maps), wanted, atol=1e-12)


def test_pooling_ends_at_the_maximum_and_at_the_mean() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 16, 24))
    assert np.array_equal(pool(spec_of(pool=1e-9), maps), maps.max((1, 2)))
    np.testing.assert_allclose(pool(spec_of(pool=1.0), maps), maps.mean((1, 2)))


def test_single_precision_agrees_with_the_oracle() -> None:
    student, reference = pair(3)
    exact, _ = oracle(spec_of(), [student], [reference])
    single, _ = oracle(spec_of(), [student.astype(np.float32)], [reference.astype(np.float32)])
    np.testing.assert_allclose(single, exact, rtol=1e-5)


def test_shapes_that_are_not_the_specs_are_refused() -> None:
    student, reference = pair(2)
    with pytest.raises(ValueError, match="level 'a' wants two"):
        oracle(spec_of(), [student[:, :4]], [reference[:, :4]])
    with pytest.raises(ValueError, match="level 'a' wants two"):
        oracle(spec_of(), [student], [reference[:1]])
    with pytest.raises(ValueError, match="1 levels wanted, got 2 and 1"):
        oracle(spec_of(), [student, student], [reference])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"center": (0.0, 1.0)}, "center has 2 numbers, wanted 1 or 24"),
        ({"scale": (1.0,) * 25}, "scale has 25 numbers, wanted 1 or 24"),
        ({"scale": (0.0,)}, "scale must be positive"),
        ({"scale": (-1.0,)}, "scale must be positive"),
        ({"center": (math.nan,)}, "center is not finite"),
        ({"scale": (math.inf,)}, "scale is not finite"),
        ({"channels": 0}, "empty shape"),
        ({"weight": math.nan}, "weight is not finite"),
        ({"sigma": -1.0}, "sigma must lie between"),
        ({"sigma": math.nan}, "sigma must lie between"),
        ({"sigma": 25.0}, "sigma must lie between"),
        ({"sigma": math.inf}, "sigma must lie between"),
        ({"pool": 0.0}, "pool is a fraction"),
        ({"pool": 1.1}, "pool is a fraction"),
        ({"pool": math.nan}, "pool is a fraction"),
    ],
)
def test_a_spec_that_cannot_be_scored_cannot_be_made(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        spec_of(**changes)  # type: ignore[arg-type]


def test_a_score_needs_a_level_and_a_map() -> None:
    with pytest.raises(ValueError, match="at least one level"):
        ScoreSpec((), 8, 8, 0, 1)
    with pytest.raises(ValueError, match="needs a map, got 0 x 8"):
        ScoreSpec(spec_of().levels, 0, 8, 0, 1)


def numbers(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The path of every number and word inside built-in containers."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in numbers(inner, (*path, key))]
    if isinstance(value, list | tuple):
        return [found for key, inner in enumerate(value) for found in numbers(inner, (*path, key))]
    return [path]


def test_the_digest_changes_with_every_number_and_only_with_them() -> None:
    spec = spec_of(center=tuple(np.linspace(0, 1, 24).tolist()), scale=tuple(np.linspace(1, 2, 24).tolist()))
    plain = msgspec.to_builtins(spec)
    paths = numbers(plain)
    assert len(paths) == 4 + 6 + 48
    seen = {spec.digest()}
    for path in paths:
        changed = msgspec.json.decode(msgspec.json.encode(plain))
        *way, last = path
        place = changed
        for key in way:
            place = place[key]
        old = place[last]
        if last == "kind":
            place[last] = "cosine"
        elif isinstance(old, str):
            place[last] = old + "x"
        elif last in ("height", "width") and "levels" in path:
            continue  # center and scale would no longer fit; tested below
        else:
            place[last] = old + 1 if isinstance(old, int) else math.nextafter(old, 2 * old + 1)
        seen.add(msgspec.convert(changed, ScoreSpec).digest())
    assert len(seen) == 1 + len(paths) - 2
    assert len({spec_of(height=h, width=w).digest() for h in (2, 4) for w in (6, 7)}) == 4
    again = msgspec.json.decode(msgspec.json.encode(spec), type=ScoreSpec)
    assert again == spec
    assert again.digest() == spec.digest()
