"""Scores images in onnxruntime and tract by an exported graph, and compares with `stssad predict`:
`python score.py DETECTOR.onnx PREDICTED.jsonl TRACT`. Images of the detector's own size are what its network gets, so their scores are
held more closely than those of others, which each side scales. Exits 1 where scores differ by more, or a comparison with a wrong
weight agrees."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
from PIL import Image

# Largest |Δscore| as a share of the spread of the scores: of images of the detector's own size, and of others.
OWN, SCALED = 1e-4, 1e-3
# Images that suffice to see that a graph is another one.
FEW = 20

detector, predicted, tract = sys.argv[1:4]
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


def opened(model):
    """A session without onnxruntime's warning of each initialiser that is an input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def judge(model, feeds={}, count=None):
    """Scores and verdicts of all images, or of the first ones, one at a time."""
    session = opened(model)
    judged = [session.run(["score", "is_anomaly"], {"images": image, **feeds}) for _, image in rows[:count]]
    return [np.concatenate(values) for values in zip(*judged)]


def difference(scores):
    """The largest differences as shares of the spread, of images of the own size and of others; NaN if a score is no number."""
    shares = np.abs(scores - expected[: len(scores)]) / spread
    return [np.max(shares[of[: len(scores)]], initial=0.0) for of in (is_own, ~is_own)]


def agrees(shares):
    return all(share <= bound for share, bound in zip(shares, (OWN, SCALED)))


scores, verdicts = judge(model)
right = difference(scores)

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

raw = detector + ".images"
with open(raw, "wb") as file:
    for _, image in rows:
        file.write(" ".join(map(str, image.shape[1:])).encode() + b"\n" + image.tobytes())
printed = subprocess.run([tract, detector, raw], check=True, capture_output=True, text=True).stdout
in_tract = difference(np.array([float(line) for line in printed.split()], np.float64))
assert len(printed.split()) == len(rows)

wrong = onnx.ModelProto()
wrong.CopyFrom(model)
weight = next(tensor for tensor in wrong.graph.initializer if "/weights" in tensor.name)
values = onnx.numpy_helper.to_array(weight).copy()
values.flat[0] += 0.5
weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
planted = difference(judge(wrong, count=FEW)[0])

print(
    f"{len(rows)} images, {is_own.sum()} of the detector's own size, spread {spread:.3g}: |Δscore| ≤ {right[0]:.1e} of it for these and "
    f"{right[1]:.1e} for the others; in tract {in_tract[0]:.1e} and {in_tract[1]:.1e}; in a batch of {len(together)} {in_batch:.1e}; "
    f"with a wrong {weight.name} {max(planted):.1e}; {(~is_clear).sum()} scores are too close to the threshold for a verdict"
)
is_right = agrees(right) and agrees(in_tract) and same[is_clear].all() and all_flagged and in_batch <= OWN
is_noticed = np.isfinite(planted).all() and not agrees(planted)
sys.exit(0 if spread > 0 and is_right and is_noticed else 1)
