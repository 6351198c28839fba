"""Scores images in onnxruntime and tract by an exported graph, and compares with `stssad predict`, and the graph's heat maps with those of
`predict --maps` if it has them: `python score.py DETECTOR.onnx PREDICTED.jsonl`. Images of the detector's own size are what its
network gets, so their scores are held more closely than those of others, which each side scales. Exits 1 where scores or maps differ by
more, or a comparison with a wrong weight agrees."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tract
from PIL import Image

# Largest |Δscore| as a share of the spread of the scores: of images of the detector's own size, and of others. The same for a pixel's heat
# and the spread of all pixels.
OWN, SCALED = 1e-4, 1e-3
# Images that suffice to see that a graph is another one.
FEW = 20

detector, predicted = sys.argv[1:3]
model = onnx.load(detector)
onnx.checker.check_model(model, full_check=True)
# The size of what the conversion gives.
shapes = {info.name: info.type.tensor_type.shape for info in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info}
height, width = (axis.dim_value for axis in shapes["pixels"].dim[2:])


def read(path):
    """An image [1, H, W, C] of grey or RGB levels."""
    levels = np.asarray(Image.open(path))
    return levels.reshape(1, *levels.shape[:2], -1)


rows = [json.loads(line) for line in open(predicted)]
rows = [(row, read(row["path"])) for row in rows]
expected = np.array([row["score"] for row, _ in rows])
is_own = np.array([image.shape[1:3] == (height, width) for _, image in rows])
spread = expected.max() - expected.min()
has_map = any(output.name == "map" for output in model.graph.output)


def heat(overlay):
    """The numbers of a map, given its picture's path in OUT/overlays."""
    return np.load(Path(overlay).parent.parent / "values" / f"{Path(overlay).stem}.npy").reshape(height, width)


def opened(model):
    """A session without onnxruntime's warning of each initialiser that is an input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def judge(model, feeds={}, count=None):
    """Scores and verdicts of all images, or of the first ones, one at a time; and their heat maps, if the graph has them."""
    session = opened(model)
    outputs = ["score", "is_anomaly"] + ["map"] * has_map
    judged = [session.run(outputs, {"images": image, **feeds}) for _, image in rows[:count]]
    return [np.concatenate(values) for values in zip(*judged)]


def judge_in_tract():
    """Scores of all images, and their heat maps, if the graph has them. tract compiles the graph for each shape of image."""
    compiled, judged = {}, []
    for _, image in rows:
        if image.shape not in compiled:
            graph = tract.onnx().load(detector)
            graph.set_input_fact(0, ",".join(map(str, image.shape)) + ",u8")
            compiled[image.shape] = graph.into_model().into_runnable()
        outputs = [output.to_numpy() for output in compiled[image.shape].run([image])]
        judged.append([outputs[0]] + outputs[1 : 1 + has_map])
    return [np.concatenate(values) for values in zip(*judged)]


def difference(values, expected):
    """The largest differences as shares of the spread, of images of the own size and of others; NaN if a value is no number."""
    differences = np.abs(values - expected[: len(values)]).reshape(len(values), -1).max(axis=1)
    shares = differences / (expected.max() - expected.min())
    return [np.max(shares[of[: len(values)]], initial=0.0) for of in (is_own, ~is_own)]


def agrees(shares):
    return all(share <= bound for share, bound in zip(shares, (OWN, SCALED)))


scores, verdicts, *maps = judge(model)
right = difference(scores, expected)

# A verdict may differ where a score is as close to the threshold as scores may differ.
threshold = next(onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "threshold")
is_clear = np.abs(expected - threshold) > SCALED * spread
same = np.array([row["anomalous"] for row, _ in rows]) == verdicts
# A run may be given another threshold, and images in batches.
all_flagged = judge(model, {"threshold": np.array(-np.inf, np.float32)}, FEW)[1].all()
session = opened(model)
together = [index for index, (_, image) in enumerate(rows) if image.shape == rows[0][1].shape][:8]
(batch,) = session.run(["score"], {"images": np.concatenate([rows[index][1] for index in together])})
in_batch = np.max(np.abs(batch - scores[together])) / spread

in_tract, *tract_maps = judge_in_tract()
in_tract = difference(in_tract, expected)

wrong = onnx.ModelProto()
wrong.CopyFrom(model)
weight = next(tensor for tensor in wrong.graph.initializer if "weights_" in tensor.name)
values = onnx.numpy_helper.to_array(weight).copy()
values.flat[0] += 0.5
weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
wrong_scores, _, *wrong_maps = judge(wrong, count=FEW)
planted = difference(wrong_scores, expected)

print(
    f"{len(rows)} images, {is_own.sum()} of the detector's own size, spread {spread:.3g}: |Δscore| ≤ {right[0]:.1e} of it for these and "
    f"{right[1]:.1e} for the others; in tract {in_tract[0]:.1e} and {in_tract[1]:.1e}; in a batch of {len(together)} {in_batch:.1e}; "
    f"with a wrong {weight.name} {max(planted):.1e}; {(~is_clear).sum()} scores are too close to the threshold for a verdict"
)
is_right = agrees(right) and agrees(in_tract) and same[is_clear].all() and all_flagged and in_batch <= OWN
is_noticed = np.isfinite(planted).all() and not agrees(planted)
if has_map:
    expected_maps = np.stack([heat(row["map"]) for row, _ in rows])
    here, there, elsewhere = (difference(value, expected_maps) for value in (maps[0], tract_maps[0], wrong_maps[0]))
    print(
        f"heat maps: |Δ| ≤ {here[0]:.1e} of the spread and {here[1]:.1e} for the others; in tract {there[0]:.1e} and {there[1]:.1e}; with a "
        f"wrong weight {max(elsewhere):.1e}"
    )
    is_right = is_right and agrees(here) and agrees(there)
    is_noticed = is_noticed and np.isfinite(elsewhere).all() and not agrees(elsewhere)
sys.exit(0 if spread > 0 and is_right and is_noticed else 1)
