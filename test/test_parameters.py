# SPDX-License-Identifier: Apache-2.0
"""Configuration fields: documented, checked, and built from plain values."""

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specprune_ros.errors import ConfigError
from specprune_ros.parameters import allowed, check, from_mapping, parameter, shown


@dataclass(frozen=True)
class Gait:
    speed: float = parameter(0.5, "walking speed", minimum=0.0, maximum=2.0, unit="m/s")
    steps: int = parameter(4, "steps per cycle", minimum=1)
    style: str = parameter("trot", "how to walk", choices=("walk", "trot"))
    careful: bool = parameter(False, "look first", live=False)
    legs: tuple[int, ...] = parameter((1, 2), "legs in order", minimum=1, maximum=4)
    weights: tuple[float, ...] = parameter((0.5,), "load of each leg", maximum=1.0)
    names: tuple[str, ...] = parameter((), "names of the legs")


FIELDS = {field.name: field for field in dataclasses.fields(Gait)}


def refused(**values) -> str:
    with pytest.raises(ConfigError) as error:
        check(Gait(**values), "gait")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_field_carries_its_documentation():
    assert dict(FIELDS["speed"].metadata) == {
        "description": "walking speed",
        "minimum": 0.0,
        "maximum": 2.0,
        "choices": None,
        "unit": "m/s",
        "live": True,
    }
    assert Gait().speed == 0.5
    assert FIELDS["careful"].metadata["live"] is False


@pytest.mark.parametrize(
    "name, words",
    [
        ("speed", "0 to 2"),
        ("steps", "at least 1"),
        ("style", "one of walk, trot"),
        ("careful", "true or false"),
        ("weights", "at most 1"),
        ("names", "a list of texts"),
    ],
)
def test_allowed_values_in_words(name, words):
    assert allowed(FIELDS[name]) == words


def test_defaults_are_valid():
    check(Gait(), "gait")


@given(
    speed=st.one_of(st.floats(0, 2), st.integers(0, 2)),
    steps=st.integers(1, 10**9),
    legs=st.lists(st.integers(1, 4)).map(tuple),
    names=st.lists(st.text()).map(tuple),
)
def test_values_in_range_are_valid(speed, steps, legs, names):
    check(Gait(speed=speed, steps=steps, legs=legs, names=names), "gait")


@given(speed=st.floats().filter(lambda x: not 0 <= x <= 2))
def test_values_outside_name_field_value_and_range(speed):
    message = refused(speed=speed)
    assert "gait.speed" in message and repr(speed) in message and "allowed: 0 to 2" in message


@pytest.mark.parametrize(
    "values, field",
    [
        ({"steps": 0}, "steps"),
        ({"style": "run"}, "style"),
        ({"legs": (1, 5)}, "legs"),
        ({"weights": (0.5, 1.5)}, "weights"),
        ({"speed": float("nan")}, "speed"),
        ({"weights": (float("-inf"),)}, "weights"),
    ],
)
def test_range_applies_to_every_element(values, field):
    message = refused(**values)
    assert f"gait.{field} = " in message and f"allowed: {allowed(FIELDS[field])}" in message


@pytest.mark.parametrize(
    "values",
    [
        {"speed": "fast"},
        {"speed": True},
        {"speed": None},
        {"steps": 2.0},
        {"steps": True},
        {"steps": None},
        {"style": 3},
        {"careful": 1},
        {"legs": (1, "2")},
        {"legs": (True,)},
        {"legs": 3},
        {"legs": [1, 2]},
        {"weights": (None,)},
        {"names": (1,)},
        {"speed": (0.5,)},
        {"speed": ()},
        {"style": ("walk",)},
    ],
)
def test_wrong_types_are_refused(values):
    name = next(iter(values))
    assert f"gait.{name} = {shown(next(iter(values.values())))}" in refused(**values)


def test_mapping_changes_what_it_names():
    base = Gait(steps=6)
    changed = from_mapping(Gait, {"speed": 1, "legs": [3, 4]}, "gait", base)
    assert changed == Gait(speed=1.0, steps=6, legs=(3, 4))
    assert type(changed.speed) is float
    assert from_mapping(Gait, {}, "gait") == Gait()


def test_mapping_refuses_wrong_types_before_the_class_works_with_them():
    with pytest.raises(ConfigError, match=r"gait\.speed = true has the wrong type"):
        from_mapping(Gait, {"speed": True}, "gait")
    with pytest.raises(ConfigError, match=r"gait.names = 'left' is not a list; write \['left'\]"):
        from_mapping(Gait, {"names": "left"}, "gait")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError) as error:
        from_mapping(Gait, {"sped": 1.0}, "gait")
    assert str(error.value).startswith("gait.sped is not a parameter; known: careful, legs, names, speed")


@given(values=st.fixed_dictionaries({}, optional={"speed": st.floats(0, 2), "legs": st.lists(st.integers(1, 4))}))
def test_mapping_of_a_configuration_restores_it(values):
    config = from_mapping(Gait, values, "gait")
    check(config, "gait")
    assert from_mapping(Gait, dataclasses.asdict(config), "gait") == config
