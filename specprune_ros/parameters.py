# SPDX-License-Identifier: Apache-2.0
"""Documented, range-checked configuration fields.

Every configuration group is a frozen dataclass whose fields are made with `parameter(...)`. The same metadata
checks values here, declares ROS parameters in the node, and writes the parameter table in the documentation.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from specprune_ros.errors import ConfigError

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text; quote one that YAML takes for something else, as 'yes'",
    tuple: "a list",
}


def parameter(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    unit: str = "",
    live: bool = True,
) -> Any:
    """A dataclass field with its documentation.

    `minimum` and `maximum` are inclusive and apply to every element of a tuple. `live` says that a running node
    may change the value; otherwise the change takes effect at the next *configure*.
    """
    metadata = {
        "description": description,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "unit": unit,
        "live": live,
    }
    return dataclasses.field(default=default, metadata=metadata)


def allowed(field: dataclasses.Field) -> str:
    """The allowed values of a field, in words: 'one of off, union' or '0 to 1'."""
    meta = field.metadata
    if meta["choices"]:
        return "one of " + ", ".join(str(choice) for choice in meta["choices"])
    low, high = meta["minimum"], meta["maximum"]
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    if high is not None:
        return f"at most {high:g}"
    return KINDS[type(field.default)]


def shown(value: Any) -> str:
    """A value as a parameter file has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def check(config: Any, group: str) -> None:
    """Check every field of a configuration dataclass against its metadata.

    Raises ConfigError that names the field as `group.field`, its value and the allowed range.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = f"{group}.{field.name}".lstrip(".")
        for element in value if isinstance(value, tuple) else (value,):
            _check_type(field, name, value, element)
            _check_range(field, name, value, element)


def _check_type(field: dataclasses.Field, name: str, value: Any, element: Any) -> None:
    example = field.default
    if isinstance(example, tuple):
        if not isinstance(value, tuple):
            raise ConfigError(f"{name} = {shown(value)} is not a list; write [{shown(value)}]")
        if not example:
            return
        example = example[0]
    expected: type | tuple[type, ...] = (int, float) if isinstance(example, float) else type(example)
    if not isinstance(element, expected) or (isinstance(element, bool) and not isinstance(example, bool)):
        quoted = "; quote it" if isinstance(example, str) and field.metadata["choices"] else ""
        raise ConfigError(f"{name} = {shown(value)} has the wrong type; allowed: {allowed(field)}{quoted}")
    if isinstance(element, float) and not math.isfinite(element):
        raise ConfigError(f"{name} = {shown(value)} is not finite; allowed: {allowed(field)}")


def _check_range(field: dataclasses.Field, name: str, value: Any, element: Any) -> None:
    meta = field.metadata
    outside = (
        (meta["choices"] and element not in meta["choices"])
        or (meta["minimum"] is not None and element < meta["minimum"])
        or (meta["maximum"] is not None and element > meta["maximum"])
    )
    if outside:
        raise ConfigError(f"{name} = {shown(value)} is outside the allowed range; allowed: {allowed(field)}")


def from_mapping(cls: type, values: Mapping[str, Any], group: str, base: Any = None) -> Any:
    """Build a configuration dataclass from plain values (YAML, ROS parameters), starting from `base`.

    Lists become tuples, integers become floats where the field is a float. Raises ConfigError for an unknown name.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    changes = {}
    for name, value in values.items():
        if name not in fields:
            full_name = f"{group}.{name}".lstrip(".")
            raise ConfigError(f"{full_name} is not a parameter; known: {', '.join(sorted(fields))}")
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(fields[name].default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        for element in value if isinstance(value, tuple) else (value,):  # before the class works with it
            _check_type(fields[name], f"{group}.{name}".lstrip("."), value, element)
        changes[name] = value
    return dataclasses.replace(base, **changes) if base is not None else cls(**changes)
