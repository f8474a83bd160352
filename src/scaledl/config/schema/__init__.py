"""The typed sections of a config. Frozen, complete, torch-free: units and meaning stand in the descriptions."""

from .base import (
    FOLDER_PATTERN,
    NAME_PATTERN,
    Auto,
    ColumnName,
    Direction,
    Fraction,
    NonNegativeFloat,
    OpenFraction,
    PositiveFloat,
    Section,
    Share,
    list_names,
    names_or_folder,
    registered,
)
from .compress import (
    QUANTIZING,
    CompressConfig,
    DistillConfig,
    FinetuneSettings,
    PruneConfig,
    PTQConfig,
    QATConfig,
    Stage,
    order_problem,
)
from .data import (
    AreaShare,
    AugmentConfig,
    DataConfig,
    JitterAmount,
    MixAlpha,
    PrepareConfig,
    SeriesAugmentConfig,
    Sigma,
    SizeFactor,
    StreamConfig,
)
from .export import ExportConfig
from .family import DropoutKind, FamilySection
from .model import DEFAULT_FAMILY, MLPConfig, ModelConfig, ResNetConfig
from .optim import OptimizerConfig, SchedulerConfig
from .root import Config, Conflict, conflicts
from .run import RunConfig
from .sequence import GRUConfig, LSTMConfig, RecurrentConfig, RNNConfig
from .task import TaskConfig
from .trainer import DeepSpeedConfig, TrainerConfig
from .tune import TuneConfig
from .vision import AutoencoderConfig, CNNConfig, UNetConfig, VAEConfig, ViTConfig

__all__ = [
    "DEFAULT_FAMILY",
    "FOLDER_PATTERN",
    "NAME_PATTERN",
    "QUANTIZING",
    "AreaShare",
    "AugmentConfig",
    "Auto",
    "AutoencoderConfig",
    "CNNConfig",
    "ColumnName",
    "CompressConfig",
    "Config",
    "Conflict",
    "DataConfig",
    "DeepSpeedConfig",
    "Direction",
    "DistillConfig",
    "DropoutKind",
    "ExportConfig",
    "FamilySection",
    "FinetuneSettings",
    "Fraction",
    "GRUConfig",
    "JitterAmount",
    "LSTMConfig",
    "MLPConfig",
    "MixAlpha",
    "ModelConfig",
    "NonNegativeFloat",
    "OpenFraction",
    "OptimizerConfig",
    "PTQConfig",
    "PositiveFloat",
    "PrepareConfig",
    "PruneConfig",
    "QATConfig",
    "RNNConfig",
    "RecurrentConfig",
    "ResNetConfig",
    "RunConfig",
    "SchedulerConfig",
    "Section",
    "SeriesAugmentConfig",
    "Share",
    "Sigma",
    "SizeFactor",
    "Stage",
    "StreamConfig",
    "TaskConfig",
    "TrainerConfig",
    "TuneConfig",
    "UNetConfig",
    "VAEConfig",
    "ViTConfig",
    "conflicts",
    "list_names",
    "names_or_folder",
    "order_problem",
    "registered",
]
