"""Read one frozen `TrainConfig` from a file, the environment and flags. Opens only that file."""

from train.config.file import dump_config, environment_config, load_config
from train.config.sections import BLOCKS, AugmentConfig, Block, BlockConfig
from train.config.training import ExportFormat, TrainConfig

__all__ = [
    "BLOCKS",
    "AugmentConfig",
    "Block",
    "BlockConfig",
    "ExportFormat",
    "TrainConfig",
    "dump_config",
    "environment_config",
    "load_config",
]
