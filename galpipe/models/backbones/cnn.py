"""A plain convolutional encoder."""

from __future__ import annotations

from torch import Tensor, nn

from galpipe.models.backbones.backbone import Backbone, refuse_even, refuse_small
from galpipe.models.backbones.spec import PlainCnn


class Cnn(Backbone):
    """Convolution, batch normalisation, rectifier, 2 x 2 maximum for every entry of `channels`."""

    def __init__(self, spec: PlainCnn, bands: int, size: int) -> None:
        super().__init__()
        refuse_even(spec.kernel)
        refuse_small("CNN", size, len(spec.channels) + spec.stem_stride - 1)
        layers: list[nn.Module] = []
        before = bands
        for number, channels in enumerate(spec.channels):
            stride = spec.stem_stride if number == 0 else 1
            layers += [
                nn.Conv2d(before, channels, spec.kernel, stride, spec.kernel // 2, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            before = channels
        self.layers = nn.Sequential(*layers)
        self.features = before

    def maps(self, images_BAYX: Tensor) -> Tensor:
        found: Tensor = self.layers(images_BAYX)
        return found
