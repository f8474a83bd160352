"""Default students of the families for images and of autoencoders."""

from __future__ import annotations

from typing import Any

import pytest

from scaledl.compress.students import default_student, structure_macs
from scaledl.config.schema import (
    AutoencoderConfig,
    CNNConfig,
    MLPConfig,
    ResNetConfig,
    UNetConfig,
    VAEConfig,
    ViTConfig,
)
from scaledl.models.structure import Structure
from scaledl.runtime.signature import Form, Inputs, Outputs

pytestmark = pytest.mark.unit

IMAGES, ROWS = Inputs("image", (1, 16, 16)), Inputs("table", (20,))
TEACHERS: dict[str, tuple[Any, Inputs, Form]] = {
    "cnn": (CNNConfig(family="cnn", kernel_size=5, pool="avg"), IMAGES, "vector"),
    "vit": (ViTConfig(family="vit", layers=4, heads=4, width=64, pooling="mean"), IMAGES, "vector"),
    "unet": (UNetConfig(family="unet", width=16, depth=2, norm="group"), IMAGES, "pixels"),
    "autoencoder": (AutoencoderConfig(family="autoencoder", latent=8), IMAGES, "input"),
    "vae": (VAEConfig(family="vae", latent=8, hidden=[64, 32], activation="silu"), ROWS, "input"),
    "resnet": (ResNetConfig(depth=20, activation="gelu", dropout=0.1), IMAGES, "vector"),
    "mlp": (MLPConfig(family="mlp", hidden=[256], activation="tanh", dropout=0.1), ROWS, "vector"),
}
SIZES = {"channels", "hidden", "width", "depth", "layers", "heads", "feedforward"}


@pytest.mark.parametrize("family", TEACHERS)
def test_is_a_quarter_of_its_teacher_and_otherwise_the_same(family: str) -> None:
    config, inputs, form = TEACHERS[family]
    teacher = Structure(family, config.model_dump(mode="json"), inputs, Outputs(3, form))
    student = default_student(teacher, key="student")
    assert 0.18 <= student.ratio <= 0.32
    assert student.macs < structure_macs(teacher)
    chosen = student.section.model_dump(mode="json")
    assert {key: chosen[key] for key in chosen.keys() - SIZES} == {
        key: teacher.config[key] for key in chosen.keys() - SIZES
    }
