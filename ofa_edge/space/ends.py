"""What comes before and after the elastic stages: stems and the head.

In: their channels as data, an arch's choices, an input size in pixels. Out: their Blocks in order. Rule kept: what a
stem leaves open (`width_choices`, `depths`) is what an arch must say of it, and nothing of a head is elastic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ofa_edge.space.block import Block, Layer


@dataclass(frozen=True, slots=True)
class MobileStem:
    """A 3x3 convolution of stride 2, then one fixed depthwise-separable block."""

    channels: int
    activation: str
    first_channels: int
    first_activation: str

    @property
    def out_channels(self) -> tuple[int, ...]:
        return (self.first_channels,)

    @property
    def width_choices(self) -> tuple[tuple[int, ...], ...]:
        return ()

    @property
    def depths(self) -> tuple[int, ...]:
        return (0,)

    def out_size(self, resolution: int) -> int:
        return -(-resolution // 2)

    def layers(self, resolution: int, widths: Sequence[int], depth: int) -> list[Layer]:
        """Its blocks in order; nothing of it is elastic."""
        width, size = self.channels, self.out_size(resolution)
        stem = Block("Conv", 3, resolution, width, kernel=3, stride=2, activation=self.activation)
        first = Block(
            "expanded_conv",
            width,
            size,
            self.first_channels,
            mid_channels=width,
            kernel=3,
            skip=width == self.first_channels,
            activation=self.first_activation,
        )
        return [Layer("stem", stem), Layer("first", first)]


@dataclass(frozen=True, slots=True)
class ResNetStem:
    """ResNet-D's stem: three 3x3 convolutions, the first of stride 2, the middle one optional, then max pooling.

    Attributes:
        mid_widths, out_widths: channels that the first two and the last convolution may have; of equal entries as in
            `Stage.widths`.
        depths: whether the middle convolution, which has a skip around it, may run (1) or be left out (0).
    """

    mid_widths: tuple[int, ...]
    out_widths: tuple[int, ...]
    activation: str
    depths: tuple[int, ...] = (0, 1)

    @property
    def out_channels(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.out_widths))

    @property
    def width_choices(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(dict.fromkeys(self.mid_widths)), self.out_channels)

    def out_size(self, resolution: int) -> int:
        return -(-resolution // 4)

    def layers(self, resolution: int, widths: Sequence[int], depth: int) -> list[Layer]:
        """Its blocks in order, for (middle, output) channels and a depth."""
        mid, out = widths
        size, act = -(-resolution // 2), self.activation
        first = Layer("stem.0", Block("Conv", 3, resolution, mid, kernel=3, stride=2, activation=act))
        optional = Layer("stem.1", Block("Conv", mid, size, mid, kernel=3, skip=True, activation=act))
        last = Layer("stem.2", Block("Conv", mid, size, out, kernel=3, activation=act))
        pool = Layer("stem_pool", Block("MaxPool2D", out, size, out, kernel=3, stride=2))
        return [first, *([optional] if depth else []), last, pool]


@dataclass(frozen=True, slots=True)
class Head:
    """What follows the stages: a 1x1 convolution (Conv_1), average pooling, a 1x1 convolution without batch norm
    (Conv_2, MobileNetV3's feature mix), the classifier. `channels` or `features` 0 leaves that convolution out."""

    channels: int = 0
    activation: str = "none"
    features: int = 0

    def layers(self, in_channels: int, size: int, classes: int) -> list[Layer]:
        layers, width = [], in_channels
        if self.channels:
            layers.append(Layer("head", Block("Conv_1", width, size, self.channels, activation=self.activation)))
            width = self.channels
        layers.append(Layer("pool", Block("AvgPool2D", width, size, width)))
        if self.features:
            layers.append(Layer("features", Block("Conv_2", width, 1, self.features, activation=self.activation)))
            width = self.features
        layers.append(Layer("logits", Block("Logits", width, 1, classes)))
        return layers
