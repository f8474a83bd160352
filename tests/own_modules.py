"""What a user may bring: named in configs of the tests as tests.own_modules:NAME, from the root of the repository."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from scaledl.config.schema import DataConfig
from scaledl.data import RawData
from scaledl.data.digits import load_digits
from scaledl.tasks.classification import ClassificationTask


class Lit(pl.LightningModule):
    """As in Lightning's own introduction."""

    def __init__(self, num_classes: int, hidden: int = 16, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
        self.epochs_seen = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        outputs = self(x)
        self.log("val_loss", F.cross_entropy(outputs, y))
        self.log_dict({"val_share": (outputs.argmax(1) == y).float().mean()}, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        self.epochs_seen += 1

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)}


class ByHand(Lit):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.automatic_optimization = False


class Steps(Lit):
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None: ...


class Several(Lit):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.parameters(), lr=0.1), torch.optim.SGD(self.parameters(), lr=0.2)]


class Doubled(ClassificationTask):
    """A task of one's own that has all that classification has."""

    def loss(self, output: Tensor, batch: Any) -> Tensor:
        return 2 * super().loss(output, batch)


class Picky(pl.Callback):
    """Refuses every training, as some of Lightning's own refuse some."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        raise MisconfigurationException("nothing suits me")


class Counter(pl.Callback):
    """Counts steps, over all attempts."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor
        self.count = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.count += self.factor

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        print("counted", self.count, sorted(trainer.callback_metrics))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


class Odd(pl.Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"thing": object()}


class Samples(Dataset[Any]):
    """Digits as floats in 0..1 [1, 8, 8], as torchvision's ToTensor gives them."""

    classes = [f"digit {number}" for number in range(10)]  # noqa: RUF012

    def __init__(self, images: Tensor, labels: Tensor, noise: float) -> None:
        self.images, self.labels, self.noise = images, labels, noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= len(self):
            raise IndexError(index)
        image = self.images[index].permute(2, 0, 1).float() / 255
        return image + self.noise * torch.rand(()), int(self.labels[index])


class Digits(pl.LightningDataModule):
    def __init__(self, noise: float = 0.0, val: int = 100, mean: float = 0.0) -> None:
        super().__init__()
        self.noise, self.val, self.mean = noise, val, mean

    def setup(self, stage: str) -> None:
        self.raw = load_digits(DataConfig())

    def _loader(self, part: slice) -> Any:
        images, labels = self.raw.inputs[part], self.raw.labels[part]
        return DataLoader(Samples(images, labels, self.noise), batch_size=32, shuffle=True)

    def train_dataloader(self) -> Any:
        return self._loader(slice(self.val, 600))

    def val_dataloader(self) -> Any:
        return self._loader(slice(0, self.val)) if self.val else []

    def test_dataloader(self) -> Any:
        return self._loader(slice(600, 800))


class Endless(Digits):
    def train_dataloader(self) -> Any:
        class Stream(IterableDataset[Any]):
            def __iter__(self) -> Any:
                yield torch.zeros(1, 8, 8), 0

        return DataLoader(Stream())


def digits_as_a_function(config: DataConfig) -> RawData:
    """The contract of our own sources."""
    return load_digits(config)


def nonsense(config: DataConfig) -> int:
    return 1
