"""YAML file and overrides to a Config, a changed Config, and back to YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError, Problem
from .files import read_config_file
from .overrides import lay_over, parse_overrides
from .scalars import FLOAT, INT
from .schema import NAME_PATTERN, Config
from .tree import Node, at_dotted_key, from_plain, merge
from .validate import validate


def load_config(
    path: str | Path | None = None, overrides: Sequence[str] = (), *, base: Config | None = None, space: bool = True
) -> Config:
    """The config of a YAML file with `key=value` overrides, over the defaults or over `base`.

    `space=False` leaves its search space unchecked, for a verb that does not search. `run.name` is the file's name
    where nothing sets it. Raises ConfigError, a UsageError, with every problem at once.
    """
    changes, problems = parse_overrides(overrides)
    layers = [from_plain(Config(), "default")]
    if path is not None:
        layers.append(_named_after(path))
    if base is not None:
        layers.append(from_plain(base, "the run's config"))
    if path is not None:
        layers.append(_read(path, problems))
    tree, missing = lay_over(reduce(merge, layers), changes)
    return validate(tree, [*problems, *missing], space=space)


def _read(path: str | Path, problems: list[Problem]) -> Node:
    """The file's tree; adds its problems to those known. Raises ConfigError with all of them when it is unreadable."""
    try:
        tree, found = read_config_file(path)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from None
    problems[:0] = found
    return tree


def _named_after(path: str | Path) -> Node:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).lstrip("._-")[:100]
    value = {"name": Node(name, "file name")} if re.fullmatch(NAME_PATTERN, name) else {}
    return Node({"run": Node(value, "file name")}, "file name")


def replace(config: Config, changes: Mapping[str, Any]) -> Config:
    """A copy with other values under dotted keys, validated as a whole. Raises ConfigError.

    >>> replace(Config(), {"optimizer.lr": 0.1, "data": {"batch_size": 64}}).data.batch_size
    64
    """
    layer = Node({}, "change", addressed=True)
    problems: list[Problem] = []
    for key, value in changes.items():
        change = at_dotted_key(key.split("."), from_plain(value, "change"))
        layer, missing = lay_over(layer, change, replace_tagged=False)
        problems += missing
    tree, missing = lay_over(from_plain(config, "config"), layer)
    return validate(tree, [*problems, *missing], space=any(key.startswith("tune") for key in changes))


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else; writes short lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def list_node(self, data: list[Any]) -> yaml.Node:
        flow = not any(isinstance(item, (dict, list)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)

    def text_node(self, data: str) -> yaml.Node:
        # line breaks of other kinds (NEL, U+2028) survive as escapes only
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.text_node)
_Dumper.add_representer(list, _Dumper.list_node)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(rf"(?:{INT.pattern})$"), list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{FLOAT.pattern})$"), list("-+0123456789."))


def dump_yaml(config: Config) -> str:
    """The whole config as YAML; `load_config` of it gives an equal config."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
