"""Residual networks (He et al. 2016, "Deep Residual Learning for Image Recognition").

CIFAR style (depth 6n + 2): a 3x3 stem and three stages. ImageNet style: a 7x7 stem with pooling and four stages;
the bottleneck strides in its 3x3 convolution, as torchvision's. Shortcuts that change the shape are 1x1 convolutions
with BatchNorm (option B). Parameters come in torchvision's order, so its weights map one to one.

Every ReLU is a module of its own and every addition is followed by one: what FX quantization fuses and what
Torch-Pruning and TorchScript follow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scaledl.config.schema import ResNetConfig
from scaledl.errors import UsageError
from scaledl.runtime.signature import Inputs, Outputs


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: [B, in_channels, H, W] -> [B, channels, ceil(H / stride), ceil(W / stride)]."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu2(out + self.shortcut(x))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions: [B, in_channels, H, W] -> [B, 4 * channels, ceil(H / stride), ceil(W / stride)]."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = _conv(channels, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu3(out + self.shortcut(x))
        return result


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """Stem, stages of blocks (channels double and size halves from stage to stage), mean over the image, head."""

    def __init__(self, stem: nn.Module, width: int, block: Block, counts: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        in_channels = width
        for number, count in enumerate(counts):
            channels = width << number
            strides = [1 if number == 0 else 2] + [1] * (count - 1)
            stage = nn.Sequential()
            for stride in strides:
                stage.append(block(in_channels, channels, stride))
                in_channels = channels * block.expansion
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(in_channels, num_classes)
        _init_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, num_classes]."""
        features = self.pool(self.stages(self.stem(x)))
        # The function, not nn.Flatten: FX quantization would leave int8 and come back for the module.
        logits: Tensor = self.head(torch.flatten(features, 1))
        return logits


def _init_weights(model: nn.Module) -> None:
    """He et al. 2015 for ReLU networks; BatchNorm starts as the identity, the head with PyTorch's default."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def zero_init_residual_(model: nn.Module) -> None:
    """Set the last BatchNorm weight of every block to zero, so that each starts as its shortcut (Goyal et al. 2017)."""
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def _cifar_stem(in_channels: int, width: int) -> nn.Module:
    return nn.Sequential(_conv(in_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())


def _imagenet_stem(in_channels: int, width: int) -> nn.Module:
    pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    return nn.Sequential(_conv(in_channels, width, 7, stride=2), nn.BatchNorm2d(width), nn.ReLU(), pool)


IMAGENET_STYLE: dict[int, tuple[Block, Sequence[int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def build_resnet(config: ResNetConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A ResNet for images [B, C, H, W]; any height and width works.

    Raises UsageError for inputs that are no images.
    """
    if inputs.kind != "image":
        raise UsageError(
            f"model.family: got resnet, and an input of the data has the shape {list(inputs.shape)}; allowed: images, "
            "[channels, height, width]; fix: model.family=mlp, which takes any shape"
        )
    if config.depth in IMAGENET_STYLE:
        block, counts = IMAGENET_STYLE[config.depth]
        width = config.width or 64
        return ResNet(_imagenet_stem(inputs.shape[0], width), width, block, counts, outputs.count)
    width = config.width or 16
    counts = [(config.depth - 2) // 6] * 3
    return ResNet(_cifar_stem(inputs.shape[0], width), width, BasicBlock, counts, outputs.count)
