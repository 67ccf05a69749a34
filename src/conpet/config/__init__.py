"""The run configuration: frozen, strict, documented per field, read from YAML."""

from conpet.config.describe import KeyDoc, describe_fields, describe_keys
from conpet.config.load import load_config, parse_config
from conpet.config.presets import PRESETS
from conpet.config.schema import (
    AdapterConfig,
    BackboneConfig,
    MethodConfig,
    ReplayConfig,
    RunConfig,
    StreamConfig,
    TrainConfig,
    at_task,
    diff,
)
from conpet.config.source import read_yaml

__all__ = [
    "PRESETS",
    "AdapterConfig",
    "BackboneConfig",
    "KeyDoc",
    "MethodConfig",
    "ReplayConfig",
    "RunConfig",
    "StreamConfig",
    "TrainConfig",
    "at_task",
    "describe_fields",
    "describe_keys",
    "diff",
    "load_config",
    "parse_config",
    "read_yaml",
]
