# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from configuration dataclasses: declared with description and range, changed live all or nothing.

A configuration dataclass (see `specprune_ros.parameters`) becomes the parameters `<group>.<field>` of a node.
"""

import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from specprune_ros.errors import UserError
from specprune_ros.nodes.parameters.unknown import LATER, no_such_parameter, warn_of_unknown
from specprune_ros.parameters import allowed, check, from_mapping, full_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")

WAITS = "in force at the next configure (deactivate, cleanup, configure, activate)"
READ_ONCE = "is read when the node configures its inputs; put it into the parameter file and start the node again"
INT64_MAX = 2**63 - 1
_SCALARS = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}
_ARRAYS = {
    bool: Parameter.Type.BOOL_ARRAY,
    int: Parameter.Type.INTEGER_ARRAY,
    float: Parameter.Type.DOUBLE_ARRAY,
    str: Parameter.Type.STRING_ARRAY,
}


def declare(node: Node, group: str, config_class: type[Config], defaults: Config | None = None) -> Config:
    """Declare every field of a configuration dataclass as a parameter and return the configuration in force.

    Values come from the command line or a parameter file, otherwise from `defaults`, otherwise from the class.
    An integer given for a float is accepted. `group` "" declares the fields without a prefix.
    Raises ConfigError that names the parameter, its value and what is allowed.
    """
    base = config_class() if defaults is None else defaults
    fields = dataclasses.fields(config_class)
    overrides = {field.name: override(node, full_name(group, field.name)) for field in fields}
    types = ros_types(config_class)
    given = {name: plain(_as(types[name], value)) for name, value in overrides.items() if value is not None}
    config = from_mapping(config_class, given, group, base)
    check(config, group)
    for field in fields:
        name, type_ = full_name(group, field.name), types[field.name]
        value, descriptor = _as(type_, _to_ros(getattr(config, field.name))), _descriptor(field, type_)
        if type_ in _ARRAYS.values():  # an empty one does not say its type
            node.declare_parameter(name, type_, descriptor, ignore_override=True)
            node.set_parameters([Parameter(name, type_, value)])
        else:
            node.declare_parameter(name, value, descriptor, ignore_override=True)
    return config


def declare_groups(node: Node, groups: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """`declare` every configuration of `groups` (group -> defaults); returns the configurations in force."""
    return {
        group: tuple(declare(node, group, type(default), default) for default in defaults)
        for group, defaults in groups.items()
    }


class LiveParameters:
    """The configuration groups of a node, and their changes while it runs.

    `declared` is what the parameters say; `running` is the same but for fields that only take effect at the next
    *configure* (`adopt`). `validate` may refuse a change by raising a UserError, before anything changes; `changed` is
    told afterwards. `expand`, given a change and the values before it, returns what else that sets (a preset, its
    fields). Given parameters that no group has are warned about. Changes happen on the executor's thread; the frozen
    configurations may be read from any thread.
    """

    def __init__(
        self,
        node: Node,
        groups: Mapping[str, tuple[Any, ...]],
        *,
        validate: Callable[["LiveParameters", dict[type, Any]], None] = lambda live, proposed: None,
        changed: Callable[[set[str]], None] = lambda names: None,
        expand: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = lambda changes, current: {},
    ) -> None:
        """`groups`: group name -> the configurations declared under it."""
        self._node = node
        self._group = {type(config): group for group, configs in groups.items() for config in configs}
        self._declared = {type(config): config for configs in groups.values() for config in configs}
        self._running = dict(self._declared)
        self._validate, self._changed, self._expand = validate, changed, expand
        self._owner = {
            full_name(group, field.name): (type(config), field)
            for group, configs in groups.items()
            for config in configs
            for field in dataclasses.fields(config)
        }
        warn_of_unknown(node)
        node.add_pre_set_parameters_callback(self._before)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._commit)
        for service in node.services:
            if service.srv_type is SetParameters:
                service.callback = self._set_together

    def declared(self, config_class: type[Config]) -> Config:
        """The configuration that the next *configure* will use."""
        return self._declared[config_class]

    def running(self, config_class: type[Config]) -> Config:
        """The configuration in force."""
        return self._running[config_class]

    def adopt(self) -> None:
        """Make every declared value the running one: called by *configure*."""
        self._running = dict(self._declared)

    def refusal(self, changes: Mapping[str, Any]) -> str:
        """Why these values, by name, would be refused; "" when they would not."""
        result = self._check(self._before([Parameter(name, value=value) for name, value in changes.items()]))
        return str(result.reason)

    def _before(self, parameters: list[Parameter]) -> list[Parameter]:
        """Turn integers into floats where a float is meant, and expand what stands for several parameters."""
        result = {}
        for parameter in parameters:
            if parameter.name in self._owner and parameter.type_ is not Parameter.Type.NOT_SET:
                parameter = self._coerced(parameter)
            result[parameter.name] = parameter
        ours = {name: plain(p.value) for name, p in result.items() if name in self._owner}
        for name, value in self._expand(ours, self._values()).items():
            result[name] = Parameter(name, self._type(name), _to_ros(value))
        return list(result.values())

    def _values(self) -> dict[str, Any]:
        """Every parameter's value, as declared."""
        return {name: getattr(self._declared[owner], field.name) for name, (owner, field) in self._owner.items()}

    def _set_together(self, request: SetParameters.Request, response: SetParameters.Response) -> SetParameters.Response:
        """~/set_parameters, which `ros2 param set` and `load` call: all of a request or, with the reason, nothing.

        So the order of a file does not matter. What has its value already is left alone, unless a preset beside it
        would change that: a dump also holds what cannot be set.
        """
        wanted = [Parameter.from_parameter_msg(message) for message in request.parameters]
        different = [p for p in wanted if not self._has_value(p)]
        late = {p.name for p in different if p.name.startswith(LATER)}
        changes = [p for p in different if p.name not in late]
        entailed = self._expand({p.name: plain(p.value) for p in changes if p.name in self._owner}, self._values())
        changes += [p for p in wanted if p.name in entailed and p not in changes]
        unknown = [p.name for p in changes if not self._node.has_parameter(p.name)]
        try:
            # These name the parameter, which rclpy does not for an unknown one or a wrong type.
            result = (
                SetParametersResult(reason=no_such_parameter(self._node, unknown[0]))
                if unknown
                else self._check(self._before(changes))
            )
            if result.successful and changes:
                result = self._node.set_parameters_atomically(changes)
        except Exception as error:  # rclpy has several, of no common kind
            result = SetParametersResult(successful=False, reason=str(error))
        if not result.successful and len(changes) > 1:
            result.reason = f"nothing was set: {result.reason}"
        changed = {parameter.name for parameter in changes}
        for parameter in wanted:
            if parameter.name in late:
                response.results.append(SetParametersResult(successful=False, reason=READ_ONCE))
                continue
            waits = parameter.name in self._owner and not self._owner[parameter.name][1].metadata["live"]
            reason = WAITS if waits and parameter.name in changed else ""
            response.results.append(
                result
                if not result.successful and parameter.name in changed
                else SetParametersResult(successful=result.successful, reason=reason or result.reason)
            )
        return response

    def _has_value(self, parameter: Parameter) -> bool:
        if not self._node.has_parameter(parameter.name):
            return False
        current = self._node.get_parameter(parameter.name)
        if parameter.name in self._owner and parameter.type_ is not Parameter.Type.NOT_SET:
            parameter = self._coerced(parameter)
        return current.type_ == parameter.type_ and plain(current.value) == plain(parameter.value)

    def _coerced(self, parameter: Parameter) -> Parameter:
        type_ = self._type(parameter.name)
        value = _as(type_, parameter.value)
        choices = set(self._owner[parameter.name][1].metadata["choices"] or ())
        if isinstance(value, bool) and {"on", "off"} <= choices:  # `ros2 param load` reads "on" so, quoted too
            value = "on" if value else "off"
        return Parameter(parameter.name, type_, value) if type_.check(value) else parameter

    def _type(self, name: str) -> Parameter.Type:
        config_class, field = self._owner[name]
        return ros_types(config_class)[field.name]

    def _proposed(self, parameters: list[Parameter]) -> dict[type, Any]:
        changes: dict[type, dict[str, Any]] = {}
        for parameter in parameters:
            if parameter.name in self._owner:
                config_class, field = self._owner[parameter.name]
                changes.setdefault(config_class, {})[field.name] = plain(parameter.value)
        proposed = {}
        for config_class, values in changes.items():
            group = self._group[config_class]
            proposed[config_class] = from_mapping(config_class, values, group, self._declared[config_class])
            check(proposed[config_class], group)
            with_live_fields(self._running[config_class], proposed[config_class])  # refused when they contradict
        return proposed

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            self._validate(self, self._proposed(parameters))
        except UserError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _commit(self, parameters: list[Parameter]) -> None:
        proposed = self._proposed(parameters)
        self._declared.update(proposed)
        for config_class, config in proposed.items():
            self._running[config_class] = with_live_fields(self._running[config_class], config)
        names = {parameter.name for parameter in parameters if parameter.name in self._owner}
        waiting = sorted(name for name in names if not self._owner[name][1].metadata["live"])
        if waiting:
            self._node.get_logger().info(f"{', '.join(waiting)}: {WAITS}")
        if names:
            self._changed(names)


def with_live_fields(running: Config, declared: Config) -> Config:
    """`running` with the fields of `declared` that may change while a node runs."""
    fields = dataclasses.fields(running)
    live = {field.name: getattr(declared, field.name) for field in fields if field.metadata["live"]}
    return dataclasses.replace(running, **live)


def plain(value: Any) -> Any:
    """A parameter's value as a configuration field holds it: arrays as tuples, [""] as an empty one."""
    if isinstance(value, str | bool | int | float) or value is None:
        return value
    elements = tuple(value)
    return () if elements == ("",) else elements


def _to_ros(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def override(node: Node, name: str) -> Any:
    """The value that the user gave for a parameter that is not declared yet, None without one."""
    value = node.declare_parameter(name, None, ParameterDescriptor(dynamic_typing=True)).value
    node.undeclare_parameter(name)
    return value


def _as(type_: Parameter.Type, value: Any) -> Any:
    """`value` with integers made floats where the parameter is a float, and any empty array as []."""
    if type_ is Parameter.Type.DOUBLE and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type_ not in _ARRAYS.values() or isinstance(value, str | bool | int | float):
        return value
    if type_ is Parameter.Type.DOUBLE_ARRAY and all(isinstance(e, int | float) for e in value):
        return [float(element) for element in value]
    return list(value)


def ros_types(config_class: type) -> dict[str, Parameter.Type]:
    """Field name -> parameter type, from annotations such as `float` or `tuple[str, ...]`."""
    hints = typing.get_type_hints(config_class)
    return {
        field.name: _ARRAYS[typing.get_args(hints[field.name])[0]]
        if typing.get_origin(hints[field.name]) is tuple
        else _SCALARS[hints[field.name]]
        for field in dataclasses.fields(config_class)
    }


def _descriptor(field: dataclasses.Field, type_: Parameter.Type) -> ParameterDescriptor:
    meta = field.metadata
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    reload = "" if meta["live"] else " Takes effect at the next configure."
    descriptor = ParameterDescriptor(
        description=f"{meta['description']}{unit}{reload}", additional_constraints=allowed(field)
    )
    low, high = meta["minimum"], meta["maximum"]
    if low is None and high is None:
        return descriptor
    if type_ is Parameter.Type.INTEGER:
        descriptor.integer_range = [
            IntegerRange(
                from_value=-INT64_MAX if low is None else int(low), to_value=INT64_MAX if high is None else int(high)
            )
        ]
    if type_ is Parameter.Type.DOUBLE:
        largest = sys.float_info.max
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=-largest if low is None else float(low), to_value=largest if high is None else float(high)
            )
        ]
    return descriptor
