# SPDX-License-Identifier: Apache-2.0
"""Documented, range-checked configuration fields.

Every configuration group is a frozen dataclass whose fields are made with `parameter(...)`. The same metadata
checks values here, declares ROS parameters in the node, and writes the parameter table in the documentation.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from specprune_ros.errors import ConfigError

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text; quote one that YAML takes for something else, as 'yes'",
}
LISTS = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}


def repeated(values: Sequence[Any]) -> Any | None:
    """The first value that is there twice, None without one."""
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


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


def full_name(group: str, name: str) -> str:
    """The parameter's name: `group.name`, or without a group the name alone."""
    return f"{group}.{name}" if group else name


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
    return LISTS[_kind(field)] if _is_list(field) else KINDS[_kind(field)]


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
        name, value = full_name(group, field.name), getattr(config, field.name)
        _check_type(field, name, value)
        _check_range(field, name, value)


def _is_list(field: dataclasses.Field) -> bool:
    return typing.get_origin(field.type) is tuple


def _kind(field: dataclasses.Field) -> Any:
    """The type of a field's value, or of each element of a list."""
    return typing.get_args(field.type)[0] if _is_list(field) else field.type


def _elements(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _check_type(field: dataclasses.Field, name: str, value: Any) -> None:
    if _is_list(field) and not isinstance(value, tuple):
        raise ConfigError(f"{name} = {shown(value)} is not a list; write [{shown(value)}]")
    kind = _kind(field)
    expected = (int, float) if kind is float else (kind,)
    fits = (
        isinstance(element, expected) and isinstance(element, bool) == (kind is bool) for element in _elements(value)
    )
    if isinstance(value, tuple) != _is_list(field) or not all(fits):
        quoted = "; quote it" if kind is str and field.metadata["choices"] else ""
        raise ConfigError(f"{name} = {shown(value)} has the wrong type; allowed: {allowed(field)}{quoted}")
    if any(isinstance(element, float) and not math.isfinite(element) for element in _elements(value)):
        raise ConfigError(f"{name} = {shown(value)} is not finite; allowed: {allowed(field)}")


def _check_range(field: dataclasses.Field, name: str, value: Any) -> None:
    meta = field.metadata
    for element in _elements(value):
        outside = (
            (meta["choices"] and element not in meta["choices"])
            or (meta["minimum"] is not None and element < meta["minimum"])
            or (meta["maximum"] is not None and element > meta["maximum"])
        )
        if outside:
            raise ConfigError(f"{name} = {shown(value)} is outside the allowed range; allowed: {allowed(field)}")


def from_mapping(cls: type, values: Mapping[str, Any], group: str, base: Any = None) -> Any:
    """Build a configuration dataclass from plain values (YAML, ROS parameters), starting from `base`.

    Lists become tuples, integers become floats where the field is a float. Raises ConfigError for an unknown name and
    for a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    changes = {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"{full_name(group, name)} is not a parameter; known: {', '.join(sorted(fields))}")
        if isinstance(value, list):
            value = tuple(value)
        if fields[name].type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        _check_type(fields[name], full_name(group, name), value)  # before the class works with it
        changes[name] = value
    return dataclasses.replace(base, **changes) if base is not None else cls(**changes)


def configured(default: Any, group: str, parameters: Mapping[str, Any]) -> Any:
    """The configuration `default` with what `parameters` (full name -> value) say of its fields, checked.

    Raises ConfigError as `from_mapping` and `check`.
    """
    names = {full_name(group, field.name): field.name for field in dataclasses.fields(default)}
    given = {names[name]: value for name, value in parameters.items() if name in names}
    config = from_mapping(type(default), given, group, base=default)
    check(config, group)
    return config
