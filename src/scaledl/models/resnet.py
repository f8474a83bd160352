"""Residual networks (He et al. 2016, "Deep Residual Learning for Image Recognition").

CIFAR style (depth 6n + 2): a 3x3 stem and three stages. ImageNet style: a 7x7 stem with pooling and four stages;
the bottleneck strides in its 3x3 convolution, as torchvision's. Shortcuts that change the shape are 1x1 convolutions
with BatchNorm (option B). Parameters come in torchvision's order, so its weights map one to one.

Every activation is a module of its own and every addition is followed by one: what FX quantization fuses and what
Torch-Pruning and TorchScript follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scaledl.config.schema import ResNetConfig
from scaledl.models.accepts import check_accepts
from scaledl.models.activations import activation_gain, build_activation
from scaledl.models.dropout import drop_path, dropout_layers, path_rates
from scaledl.models.init import initialise_
from scaledl.runtime.signature import Inputs, Outputs


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def _activation(config: ResNetConfig) -> nn.Module:
    """Between two convolutions of a block; where channels are dropped, it is there (Zagoruyko & Komodakis 2016)."""
    activation = build_activation(config.activation)
    dropout = dropout_layers(config, 2) if config.dropout_kind == "spatial" else []
    return nn.Sequential(activation, *dropout) if dropout else activation


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: [B, in_channels, H, W] -> [B, channels, ceil(H / stride), ceil(W / stride)]."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, config: ResNetConfig, path_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = _activation(config)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)
        self.relu2 = build_activation(config.activation)
        self.path = drop_path(path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.path is not None:
            out = self.path(out)
        result: Tensor = self.relu2(out + self.shortcut(x))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions: [B, in_channels, H, W] -> [B, 4 * channels, ceil(H / stride), ceil(W / stride)]."""

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int, config: ResNetConfig, path_rate: float = 0.0
    ) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = _activation(config)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = _activation(config)
        self.conv3 = _conv(channels, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu3 = build_activation(config.activation)
        self.path = drop_path(path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.path is not None:
            out = self.path(out)
        result: Tensor = self.relu3(out + self.shortcut(x))
        return result


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """Stem, stages of blocks (channels double and size halves from stage to stage), mean over the image, head."""

    def __init__(self, config: ResNetConfig, in_channels: int, num_outputs: int) -> None:
        super().__init__()
        block, counts, width, stem_fn = _style(config)
        self.stem = stem_fn(in_channels, width, build_activation(config.activation))
        rates = iter(path_rates(config.drop_path, sum(counts)))
        self.stages = nn.Sequential()
        in_channels = width
        for number, count in enumerate(counts):
            channels = width << number
            strides = [1 if number == 0 else 2] + [1] * (count - 1)
            stage = nn.Sequential()
            for stride in strides:
                stage.append(block(in_channels, channels, stride, config, next(rates)))
                in_channels = channels * block.expansion
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = next(iter(dropout_layers(config)), None)
        self.head = nn.Linear(in_channels, num_outputs)
        _init_weights(self, activation_gain(config.activation))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> logits [B, num_outputs]."""
        # The function, not nn.Flatten: FX quantization would leave int8 and come back for the module.
        features = torch.flatten(self.pool(self.stages(self.stem(x))), 1)
        if self.dropout is not None:
            features = self.dropout(features)
        logits: Tensor = self.head(features)
        return logits


def _init_weights(model: nn.Module, gain: float) -> None:
    """He et al. 2015, over the outputs; BatchNorm starts as the identity, the head with PyTorch's default."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=gain / fan_out**0.5)


def zero_init_residual_(model: nn.Module) -> None:
    """Set the last BatchNorm weight of every block to zero, so that each starts as its shortcut (Goyal et al. 2017)."""
    for module in model.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def _cifar_stem(in_channels: int, width: int, activation: nn.Module) -> nn.Module:
    return nn.Sequential(_conv(in_channels, width, 3), nn.BatchNorm2d(width), activation)


def _imagenet_stem(in_channels: int, width: int, activation: nn.Module) -> nn.Module:
    pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    return nn.Sequential(_conv(in_channels, width, 7, stride=2), nn.BatchNorm2d(width), activation, pool)


IMAGENET_STYLE: dict[int, tuple[Block, Sequence[int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


def _style(config: ResNetConfig) -> tuple[Block, Sequence[int], int, Callable[[int, int, nn.Module], nn.Module]]:
    """Kind of block, blocks of each stage, channels of the first one, and the stem."""
    if config.depth in IMAGENET_STYLE:
        block, counts = IMAGENET_STYLE[config.depth]
        return block, counts, config.width or 64, _imagenet_stem
    return BasicBlock, [(config.depth - 2) // 6] * 3, config.width or 16, _cifar_stem


def build_resnet(config: ResNetConfig, inputs: Inputs, outputs: Outputs) -> nn.Module:
    """A ResNet for images [B, C, H, W]; any height and width works.

    Raises UsageError for inputs that are no images.
    """
    check_accepts("resnet", inputs, outputs)
    return initialise_(ResNet(config, inputs.shape[0], outputs.count), config, inputs)
