"""The listing of keys, the JSON Schema for editors, names, and what importing the config costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scaledl.config import Config, config_keys, json_schema, load_config
from scaledl.config.nearest import nearest, nearest_key
from scaledl.config.registry import CHANGES, FAMILIES, FORMATS, METHODS, SOURCES, TASKS, Entry, Registry
from scaledl.config.traits import TRAITS
from scaledl.errors import UsageError

pytestmark = pytest.mark.unit

SOURCE_NAMES = (
    *("breast_cancer", "cifar10", "cifar100", "diabetes", "digits", "fashion_mnist", "imagenet", "iris", "mnist"),
    *("prepared", "text", "ucr", "wine"),
)

KEYS = {info.name: info for info in config_keys()}


def test_keys_of_every_section_family_and_method() -> None:
    lr = KEYS["optimizer.lr"]
    assert (lr.type, lr.default, lr.allowed) == ("number", "0.001", "a number greater than 0")
    assert "learning rate" in lr.description
    ratio = KEYS["compress.stages[].ratio (prune)"]
    assert (ratio.key, ratio.variant, ratio.default) == ("compress.stages[].ratio", "prune", "0.5")
    assert KEYS["model.hidden (mlp)"].default == "[128]"
    families = KEYS["model.family"].allowed
    assert sorted(families.removeprefix("one of ").split(", ")) == [*FAMILIES.names()]
    assert KEYS["data.source"].allowed == (
        f"one of {', '.join(SOURCE_NAMES)}, or a folder of a prepared data set (with a slash: ./NAME), or one's own as "
        "path.to.module:name"
    )
    assert KEYS["compress.stages[].method"].default == "required"
    assert KEYS["compress.stages"].default == "[]"
    assert KEYS["base"].type == "text or list"


def test_every_key_is_described_and_none_is_missing() -> None:
    assert not [info.name for info in KEYS.values() if not (info.type and info.allowed and info.description)]
    dumped = Config().model_dump()
    for section, values in dumped.items():
        for key in values:
            assert any(info.key.startswith(f"{section}.{key}") for info in KEYS.values())


def test_defaults_in_the_listing_are_the_defaults() -> None:
    plain = [
        f"{info.key}={info.default}"
        for info in KEYS.values()
        if not info.variant and info.key != "base" and "[]" not in info.key
    ]
    assert load_config(None, plain) == Config()


def test_json_schema_for_editors() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {"base", *Config.model_fields}
    assert [option["type"] for option in schema["properties"]["base"]["anyOf"]] == ["string", "array"]
    assert schema["$defs"]["DataConfig"]["properties"]["source"]["anyOf"][0]["enum"] == [*SOURCE_NAMES]
    assert all("method" in schema["$defs"][name]["required"] for name in ("PruneConfig", "PTQConfig"))
    json_schema()["properties"].clear()
    assert json_schema() == schema


@pytest.mark.parametrize(
    ("registry", "names"),
    [
        (SOURCES, SOURCE_NAMES),
        (TASKS, tuple(sorted(TRAITS))),
        (METHODS, ("distill", "prune", "ptq", "qat")),
        (FORMATS, ("torchscript",)),
        (CHANGES, ("quantize", "resize")),
    ],
)
def test_registered_names(registry: Registry, names: tuple[str, ...]) -> None:
    assert registry.names() == names


def test_registry_resolves_only_what_is_in_the_table() -> None:
    registry = Registry("codec", {"json": "json:loads"})
    assert registry.resolve("json") is json.loads
    with pytest.raises(UsageError, match=r"unknown codec 'jsno'; allowed: json; did you mean 'json'\?"):
        registry.resolve("jsno")
    for name in ("os:system", "json:dumps", "os.system", ""):
        with pytest.raises(UsageError, match="allowed: json"):
            registry.resolve(name)


def test_registry_refuses_duplicates_and_bad_targets() -> None:
    registry = Registry("codec", {"json": "json:loads"})
    with pytest.raises(ValueError, match="codec 'json' is registered already, as json:loads"):
        registry.register("json", "pickle:loads")
    with pytest.raises(ValueError, match="'module:function'"):
        registry.register("other", "pickle.loads")
    registry.register("dumps", "json:dumps")
    assert registry.names() == ("dumps", "json")


def test_registry_entries_describe_names() -> None:
    described = Entry("json:dumps", "Text of a value.", "RFC 8259")
    registry = Registry("codec", {"loads": "json:loads", "dumps": described})
    assert registry.entry("dumps") is described
    assert registry.entry("loads") == Entry("json:loads", "", "")
    assert registry.resolve("dumps") is json.dumps
    with pytest.raises(UsageError, match="unknown codec 'dump'"):
        registry.entry("dump")
    with pytest.raises(ValueError, match="'module:function'"):
        registry.register("other", Entry("json.dumps"))


def test_nearest_names() -> None:
    assert nearest("ADAMW", ["sgd", "adamw"]) == "adamw"
    assert nearest("x" * 100_000, ["sgd", "adamw"]) is None
    assert nearest_key("model.widht", ["width", "depth"], []) == "model.width"
    assert nearest_key("zzz", ["model"], ["model.width"]) is None


def test_importing_and_checking_needs_nothing_heavy() -> None:
    code = (
        "import sys, scaledl.config as c\n"
        "try: c.load_config(None, ['lr=1', 'data.source=x', 'task.name=y'])\n"
        "except c.ConfigError: pass\n"
        "c.config_keys(); c.json_schema(); c.dump_yaml(c.load_config())\n"
        "heavy = {'torch', 'numpy', 'pytorch_lightning', 'lightning', 'sklearn', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
