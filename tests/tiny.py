"""A tiny but structurally real bundle, made in well under a second, to test engines, builders and the runtime with.

Two frozen random "teachers" (one with residual Adds, one with depthwise convolutions and ReLU6), a Concat, a bilinear
Resize and projections make the reference; the student's heads are fitted to it on normal frames by least squares, so
that a defect really does raise the score. Input is uint8 NHWC; Cast, Transpose, Sub and Div come first, as they should.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mtkd_edge import __version__, bundle, threshold
from mtkd_edge.bundle import Manifest, TeacherInfo
from mtkd_edge.frames import FrameSpec
from mtkd_edge.score import EPSILON, Level, ScoreSpec, oracle, resampler

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CHANNELS = 12


class Graph:
    """Nodes and weights that are being put together; every method returns the name of the tensor it makes."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray] = {}
        self.rng = np.random.default_rng(seed)

    def constant(self, value: NDArray, name: str = "") -> str:
        name = name or f"const{len(self.weights)}"
        self.weights[name] = value
        return name

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"/{out}", **attributes))
        return out

    def conv(self, x: str, c_in: int, c_out: int, k: int = 3, stride: int = 1, group: int = 1, out: str = "") -> str:
        fan = c_in // group * k * k
        weight = self.rng.standard_normal((c_out, c_in // group, k, k)) * np.sqrt(2 / fan)
        names = self.constant(weight.astype("f4")), self.constant(self.rng.standard_normal(c_out).astype("f4") * 0.1)
        return self.op("Conv", x, *names, out=out, strides=[stride] * 2, pads=[k // 2] * 4, group=group)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def relu6(self, x: str) -> str:
        return self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(6)))

    def model(self, inputs: dict[str, tuple[int, list[object]]], outputs: dict[str, list[object]]) -> onnx.ModelProto:
        made = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()],
            [numpy_helper.from_array(v, n) for n, v in self.weights.items()],
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def normal_frames(count: int, size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """[count, size, size, 3] photos of a good part: a shaded, striped disc that moves a little, in a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    frames = np.empty((count, size, size, 3), np.uint8)
    for frame in frames:
        dx, dy, light = rng.normal(0, 0.01, 3)
        inside = np.hypot(x - 0.5 - dx, y - 0.5 - dy) < 0.4
        stripes = 130 + 40 * np.sin(40 * (x + dx)) + 30 * y
        grey = np.where(inside, stripes, 60) * (1 + light) + rng.normal(0, 2, (size, size))
        frame[:] = np.clip(grey[:, :, None] * [1.0, 0.95, 0.9], 0, 255)
    return frames


def with_defects(frames: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    """Copies with one dark or bright blotch each, somewhere on the part, of changing size and strength."""
    rng = np.random.default_rng(seed)
    made, size = frames.astype(np.float64), frames.shape[1]
    y, x = np.mgrid[:size, :size]
    for frame in made:
        at, radius = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0.04, 0.12) * size
        frame[np.hypot(x - at[0], y - at[1]) < radius] += rng.choice([-1, 1]) * rng.uniform(40, 110)
    return np.clip(made, 0, 255).astype(np.uint8)


def _features(size: int, seed: int) -> Graph:
    """The graph of both teachers and the student up to, but without, the two heads `student_*`."""
    g = Graph(seed)
    x = g.op("Cast", "frames", to=TensorProto.FLOAT)
    x = g.op("Transpose", x, perm=[0, 3, 1, 2])
    x = g.op("Sub", x, g.constant(np.array(MEAN, "f4").reshape(1, 3, 1, 1)))
    x = g.op("Div", x, g.constant(np.array(STD, "f4").reshape(1, 3, 1, 1)))

    a = g.relu(g.conv(g.relu(g.conv(x, 3, 8, stride=2)), 8, 16, stride=2))
    a = g.op("MaxPool", a, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    a8 = g.relu(g.op("Add", g.conv(g.relu(g.conv(a, 16, 16)), 16, 16), a))
    down = g.conv(a8, 16, 24, k=1, stride=2)
    a16 = g.relu(g.op("Add", g.conv(g.relu(g.conv(a8, 16, 24, stride=2)), 24, 24), down))

    b = g.relu6(g.conv(x, 3, 16, k=5, stride=4))
    b8 = g.relu6(g.conv(g.relu6(g.conv(b, 16, 16, stride=2, group=16)), 16, 24, k=1))
    b16 = g.relu6(g.conv(g.relu6(g.conv(b8, 24, 24, stride=2, group=24)), 24, 24, k=1))

    g.conv(g.op("Concat", a8, b8, axis=1), 40, CHANNELS, k=1, out="reference_fine")
    coarse = g.op("Concat", a16, b16, axis=1)
    sizes = g.constant(np.array([1, 1, 2, 2], "f4"))
    coarse = g.op("Resize", coarse, "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    g.conv(coarse, 48, CHANNELS, k=1, out="reference_coarse")

    s = g.relu(g.conv(g.relu(g.conv(x, 3, 12, stride=2)), 12, 24, stride=2))
    g.op("Relu", g.conv(s, 24, 48, stride=2), out="trunk")
    return g


def _fit_student(g: Graph, size: int, normals: NDArray[np.uint8]) -> None:
    """Adds the heads `student_<level>`: 1x1 convolutions from the trunk, ridge regression on normal frames."""
    wanted = ["trunk", "reference_fine", "reference_coarse"]
    probe = g.model(
        {"frames": (TensorProto.UINT8, ["N", size, size, 3])}, {n: ["N", None, size // 8, size // 8] for n in wanted}
    )
    trunk, *references = run(probe, {"frames": normals}, wanted)
    flat = trunk.transpose(0, 2, 3, 1).reshape(-1, trunk.shape[1])
    design = np.concatenate([flat, np.ones((len(flat), 1))], 1)
    gram = design.T @ design + 1e-3 * len(design) * np.eye(design.shape[1])
    for name, reference in zip(("student_fine", "student_coarse"), references, strict=True):
        solution = np.linalg.solve(gram, design.T @ reference.transpose(0, 2, 3, 1).reshape(-1, CHANNELS))
        weight = solution[:-1].T.reshape(CHANNELS, -1, 1, 1).astype("f4")
        g.op("Conv", "trunk", g.constant(weight), g.constant(solution[-1].astype("f4")), out=name, kernel_shape=[1, 1])


def run(model: onnx.ModelProto, feed: dict[str, NDArray], names: list[str]) -> list[NDArray]:
    """The outputs `names` of a model, by onnxruntime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, feed)


def head(spec: ScoreSpec) -> onnx.ModelProto:
    """The ONNX form of a ScoreSpec, straight from the formula of `mtkd_edge.score`."""
    g = Graph(0)
    parts, inputs = [], {}
    for level in spec.levels:
        s, r = f"student_{level.name}", f"reference_{level.name}"
        inputs |= {n: (TensorProto.FLOAT, ["N", level.channels, level.height, level.width]) for n in (s, r)}
        if level.kind == "squared":
            difference = g.op("Sub", s, r)
            d = g.op("ReduceMean", g.op("Mul", difference, difference), axes=[1], keepdims=0)
        else:
            axes = g.constant(np.array([1], np.int64))
            dot = g.op("ReduceSum", g.op("Mul", s, r), axes, keepdims=0)
            norms = g.op("Mul", *(g.op("ReduceL2", n, axes=[1], keepdims=0) for n in (s, r)))
            norms = g.op("Add", norms, g.constant(np.float32(EPSILON)))
            d = g.op("Sub", g.constant(np.float32(1)), g.op("Div", dot, norms))
        d = g.op("Sub", d, g.constant(level.grid(level.center).astype("f4")))
        d = g.op("Mul", d, g.constant((level.weight / level.grid(level.scale)).astype("f4")))
        rows, columns = (
            resampler(o, i, spec.sigma).astype("f4")
            for o, i in ((spec.height, level.height), (spec.width, level.width))
        )
        d = g.op("MatMul", g.op("MatMul", g.constant(rows), d), g.constant(np.ascontiguousarray(columns.T)))
        parts.append(d)
    total = parts[0]
    for part in parts[1:]:
        total = g.op("Add", total, part)
    g.op("Identity", total, out="map")
    flat = g.op("Reshape", "map", g.constant(np.array([-1, spec.height * spec.width], np.int64)))
    g.nodes.append(
        helper.make_node("TopK", [flat, g.constant(np.array([spec.pooled], np.int64))], ["top", "top_i"], name="/top")
    )
    mean = g.op("ReduceMean", "top", axes=[1], keepdims=0)
    # TopK may drop a NaN; the sum cannot, so the score of a map with a NaN is NaN
    axes = g.constant(np.array([1], np.int64))
    nothing = g.op("Mul", g.op("ReduceSum", flat, axes, keepdims=0), g.constant(np.float32(0)))
    g.op("Add", mean, nothing, out="score")
    return g.model(inputs, {"map": ["N", spec.height, spec.width], "score": ["N"]})


def _spec(size: int, features: dict[str, NDArray]) -> ScoreSpec:
    """Two levels, one of each kind; the first with per-position statistics, the second with one number."""
    grid = size // 8
    fine = ((features["student_fine"] - features["reference_fine"]) ** 2).mean(1)
    centre, spread = fine.mean(0), fine.std(0) + 0.2 * fine.std()
    centre, spread = centre.flatten().tolist(), spread.flatten().tolist()
    return ScoreSpec(
        levels=(
            Level("fine", "squared", CHANNELS, grid, grid, 0.6, tuple(centre), tuple(spread)),
            Level("coarse", "cosine", CHANNELS, grid, grid, 0.4, (0.05,), (0.05,)),
        ),
        height=size // 2,
        width=size // 2,
        sigma=1.5,
        pool=0.02,
    )


def make_bundle(folder: Path, size: int = 64, seed: int = 0) -> Manifest:
    """Write a complete bundle into `folder` (made if missing) and return its manifest. `size`: a multiple of 32."""
    folder.mkdir(parents=True, exist_ok=True)
    normals, held_out = normal_frames(16, size, seed), normal_frames(24, size, seed + 1)
    g = _features(size, seed)
    _fit_student(g, size, normals)
    names = ["student_fine", "student_coarse", "reference_fine", "reference_coarse"]
    shape = ["N", CHANNELS, size // 8, size // 8]
    model = g.model({"frames": (TensorProto.UINT8, ["N", size, size, 3])}, dict.fromkeys(names, shape))
    onnx.save(model, folder / bundle.FEATURES)

    def evaluate(frames: NDArray[np.uint8]) -> dict[str, NDArray]:
        return dict(zip(names, run(model, {"frames": frames}, names), strict=True))

    spec = _spec(size, evaluate(normals))
    onnx.save(head(spec), folder / bundle.HEAD)
    golden = np.concatenate([held_out[:2], with_defects(held_out[:2], seed)])
    values = evaluate(golden)
    maps, scores = oracle(spec, [values[n] for n in names[:2]], [values[n] for n in names[2:]])
    np.savez(
        folder / bundle.GOLDEN,
        frames=golden,
        map=maps.astype("f4"),
        score=scores.astype("f4"),
        **{name: value[:2] for name, value in values.items()},
    )
    values = evaluate(held_out)
    maps, scores = oracle(spec, [values[n] for n in names[:2]], [values[n] for n in names[2:]])
    found = threshold.fit(scores, maps.max((1, 2)), 0.05, "tiny")
    teacher = {"source": "random", "sha256": "0" * 64, "mean": MEAN, "std": STD}
    manifest = Manifest(
        name="tiny",
        method="map",
        created="2026-01-01T00:00:00Z",
        version=__version__,
        seed=seed,
        frame=FrameSpec(size, size),
        score=spec,
        teachers=(
            TeacherInfo(name="residual", taps=("a8", "a16"), importance=(0.5, 0.5), **teacher),
            TeacherInfo(name="mobile", taps=("b8", "b16"), importance=(0.5, 0.5), **teacher),
        ),
        student="tiny",
        photos=len(normals),
        held_out=len(held_out),
        files=bundle.seal(folder),
    )
    bundle.save(folder, manifest, found)
    return manifest


def write_target(folder: Path, backend: str = "openvino", precision: str = "int8") -> Path:
    """A recipe `tiny.toml` whose gate a network of this size can pass: its features are a few per cent from FP32."""
    path = folder / "tiny.toml"
    gate = "[gate]\nspearman = 0.9\nauroc_drop = 0.05\nflips = 0.1\n"
    path.write_text(f'name = "tiny"\nbackend = "{backend}"\nprecision = "{precision}"\n[batch]\nmax = 4\n{gate}')
    return path
