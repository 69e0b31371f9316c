"""Classify images (8 bits, opaque). Needs ai-edge-litert, numpy and pillow: python example.py IMAGE..."""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


def main(folder: Path, images: list[str]) -> None:
    """Print one line per image. model.int8.tflite works the same way, with int8_unsure_below."""
    card = json.loads((folder / "model.json").read_text())
    predict = Interpreter(str(folder / "model.tflite")).get_signature_runner()
    for path in images:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        image = image.resize((card["image_size"],) * 2, Image.Resampling.BILINEAR)
        probabilities = predict(pixels=np.asarray(image)[np.newaxis])["probabilities"][0]
        unsure = " unsure" if probabilities.max() < card["unsure_below"] else ""
        print(f"{path} {card['labels'][probabilities.argmax()]} {probabilities.max():.4f}{unsure}")


if __name__ == "__main__":
    sys.argv[1:] or sys.exit(__doc__)
    main(Path(__file__).parent, sys.argv[1:])
