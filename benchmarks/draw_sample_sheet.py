"""Create `docs/images/sample.jpg`, the picture at the top of the README: two scenes of each class of the sample."""

from pathlib import Path

from PIL import Image

from landuse.sample import CLASSES, draw

TARGET = Path("docs/images/sample.jpg")
SIDE, GAP = 128, 4
NUMBERS = (4, 8)


def main() -> None:
    """Draw the scenes, one column per class."""
    sheet = Image.new("RGB", (len(CLASSES) * (SIDE + GAP) - GAP, len(NUMBERS) * (SIDE + GAP) - GAP), "white")
    for column, label in enumerate(CLASSES):
        for row, number in enumerate(NUMBERS):
            sheet.paste(draw(label, number), (column * (SIDE + GAP), row * (SIDE + GAP)))
    sheet.save(TARGET, quality=88)


if __name__ == "__main__":
    main()
