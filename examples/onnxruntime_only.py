"""
Detect objects in images of 8 bits with an exported ONNX file: onnxruntime, numpy and PIL.

    python onnxruntime_only.py model.onnx image.jpg ...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MIN_SCORE = 0.4


# --8<-- [start:example]
def resize(image, min_size, max_size):
    """Resize an image as detectron2 does: the shorter side to min_size, the longer to max_size."""
    if min_size == 0:
        return image
    size = np.multiply(image.size, min_size / min(image.size))
    if max(size) > max_size:
        size *= max_size / max(size)
    return image.resize([int(x + 0.5) for x in size], Image.Resampling.BILINEAR)


def main(model, *files):
    """Print the objects in images."""
    session = onnxruntime.InferenceSession(model)
    info = {
        name: json.loads(value)
        for name, value in session.get_modelmeta().custom_metadata_map.items()
    }
    number, _, *size = info["input_shape"]
    if info["input_format"] not in ("RGB", "BGR") or [number, *size] != [None] * 3:
        sys.exit("This example is for color images, and models that accept any size.")
    for file in files:
        original = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        resized = resize(original, info["min_size_test"], info["max_size_test"])
        pixels = np.asarray(resized)  # (H, W, 3)
        if info["input_format"] == "BGR":
            pixels = pixels[:, :, ::-1]
        images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], info["input_dtype"])
        boxes, scores, classes, counts = session.run(None, {"images": images})
        scale = np.tile(np.divide(original.size, resized.size), 2)
        for i in range(counts[0]):
            if scores[0, i] >= MIN_SCORE:
                box = " ".join(f"{x:.1f}" for x in boxes[0, i] * scale)
                print(f"{file}: {info['class_names'][classes[0, i]]} {scores[0, i]:.3f} {box}")
    # --8<-- [end:example]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
