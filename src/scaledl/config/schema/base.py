"""What all sections are made of: the base class, common types, fields that hold registered names."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ..registry import Registry

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
FOLDER_PATTERN = "/"
TOKENIZER_PATTERN = r"\.json$"
OWN_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"  # something of one's own: path.to.module:name
LIBRARIES = ("timm", "torchvision", "hf")
EXTERNAL_PATTERN = rf"^({'|'.join(LIBRARIES)}):\S+$|{OWN_PATTERN}"

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
ColumnName = Annotated[str, Field(min_length=1, max_length=1000)]
OpenFraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Auto = Literal["auto"]
Direction = Literal["max", "min"]


def registered(registry: Registry, *, or_own: bool = False) -> Any:
    """Annotated metadata of a field that holds a name of this registry; never imports what the name stands for.

    `or_own`: or path.to.module:name of one's own.
    """

    def check(name: str) -> str:
        if name not in registry and not (or_own and re.match(OWN_PATTERN, name)):
            raise PydanticCustomError("not_registered", "not a registered {kind}", {"kind": registry.kind})
        return name

    return AfterValidator(check)


def list_names(registry: Registry, *, or_own: bool = False) -> Any:
    """Puts the registered names into the JSON Schema of a field."""

    def extend(schema: dict[str, Any]) -> None:
        names = {"enum": list(registry.names())}
        if or_own:
            schema.pop("type", None)
            schema["anyOf"] = [names, {"type": "string", "pattern": OWN_PATTERN}]
        else:
            schema.update(names)

    return extend


def names_or_folder(registry: Registry) -> Any:
    """As `list_names`, for a field that takes a folder, or a name of one's own, as well."""

    def extend(schema: dict[str, Any]) -> None:
        schema.pop("type", None)
        patterns = [{"type": "string", "pattern": pattern} for pattern in (FOLDER_PATTERN, OWN_PATTERN)]
        schema["anyOf"] = [{"enum": list(registry.names())}, *patterns]

    return extend


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)
