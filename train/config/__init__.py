"""One YAML file, and options that go before it -> one frozen `TrainConfig`. Opens nothing but that file."""

from train.config.file import describe_keys, dump_config, load_config
from train.config.sections import BLOCKS, AugmentConfig, Block, BlockConfig
from train.config.training import ExportFormat, TrainConfig

__all__ = [
    "BLOCKS",
    "AugmentConfig",
    "Block",
    "BlockConfig",
    "ExportFormat",
    "TrainConfig",
    "describe_keys",
    "dump_config",
    "load_config",
]
