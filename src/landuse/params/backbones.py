"""The backbones: one row for each network of Keras that can be trained. TensorFlow is not needed to read it."""

from dataclasses import dataclass

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Backbone:
    """A network of `keras.applications`.

    `first_layers` name the first layer of block_1, block_2 and so on: at its input the network can be cut, because no
    shortcut crosses it. Pixels of 0 to 255 are multiplied by `scale`, then `offset` is added, as for the ImageNet
    weights. These exist for the `widths` (values of `extract.alpha`), of which a network without a multiplier has none.
    `depthwise` counts the depthwise layers, by which the weights of one backbone are told from those of another.
    With `has_preprocessing`, the network would scale pixels itself unless told not to.
    """

    constructor: str
    first_layers: tuple[str, ...]
    depthwise: int
    widths: tuple[float, ...]
    scale: float | Channels = 1 / 127.5
    offset: float | Channels = -1.0
    has_preprocessing: bool = False

    @property
    def blocks(self) -> int:
        """Number of the last block that `train.unfreeze_from` may name."""
        return len(self.first_layers)


def numbered(pattern: str, last: int) -> tuple[str, ...]:
    """Return the names of layers of block 1 to the last one."""
    return tuple(pattern.format(number) for number in range(1, last + 1))


def mobilenet_layers() -> tuple[str, ...]:
    """Return the first layers of MobileNet's blocks; those that halve the image begin with a padding."""
    return tuple(f"conv_{'pad' if number in (2, 4, 6, 12) else 'dw'}_{number}" for number in range(1, 14))


def efficientnet_layers() -> tuple[str, ...]:
    """Return the first layers of EfficientNetV2-B0's blocks from block2a on, which Keras names by stage and letter."""
    stages = {2: "ab", 3: "ab", 4: "abc", 5: "abcde", 6: "abcdefgh"}
    return tuple(f"block{stage}{letter}_expand_conv" for stage, letters in stages.items() for letter in letters)


IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels scaled to 0..1
BACKBONES = {
    "mobilenet_v2": Backbone(
        constructor="MobileNetV2",
        first_layers=numbered("block_{}_expand", 16),
        depthwise=17,
        widths=(0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
    ),
    "mobilenet": Backbone(
        constructor="MobileNet", first_layers=mobilenet_layers(), depthwise=13, widths=(0.25, 0.5, 0.75, 1.0)
    ),
    "mobilenet_v3_small": Backbone(
        constructor="MobileNetV3Small",
        first_layers=numbered("expanded_conv_{}_expand", 10),
        depthwise=11,
        widths=(0.75, 1.0),
        has_preprocessing=True,
    ),
    "mobilenet_v3_large": Backbone(
        constructor="MobileNetV3Large",
        first_layers=numbered("expanded_conv_{}_expand", 14),
        depthwise=15,
        widths=(0.75, 1.0),
        has_preprocessing=True,
    ),
    "efficientnetv2-b0": Backbone(  # Keras accepts no other name
        constructor="EfficientNetV2B0",
        first_layers=efficientnet_layers(),
        depthwise=16,
        widths=(),
        scale=tuple(1 / (255 * deviation) for deviation in IMAGENET_DEVIATION),  # type: ignore[arg-type]  # three
        offset=tuple(-m / d for m, d in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)),  # type: ignore[arg-type]
        has_preprocessing=True,
    ),
}
