"""The config: typed sections, YAML and overrides to a validated value, names to functions. Imports nothing heavy."""

from .compare import FREE_KEYS, changed_keys, describe_changes
from .errors import ConfigError, Problem
from .keys import KeyInfo, config_keys, json_schema
from .load import dump_yaml, load_config, replace
from .portable import portable
from .recipe import parse_recipe
from .schema import CompressConfig, Config, TuneConfig
from .space import Dimension, Point, Space, space_of

__all__ = [
    "FREE_KEYS",
    "CompressConfig",
    "Config",
    "ConfigError",
    "Dimension",
    "KeyInfo",
    "Point",
    "Problem",
    "Space",
    "TuneConfig",
    "changed_keys",
    "config_keys",
    "describe_changes",
    "dump_yaml",
    "json_schema",
    "load_config",
    "parse_recipe",
    "portable",
    "replace",
    "space_of",
]
