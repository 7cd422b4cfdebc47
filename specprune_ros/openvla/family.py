# SPDX-License-Identifier: Apache-2.0
"""Facts that a checkpoint's weights do not tell: from arguments, `config.json`, or the data set's known name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from specprune_ros.errors import CheckpointError
from specprune_ros.openvla.files import shown

NORMALIZATIONS = {"quantile": ("q01", "q99"), "bounds": ("min", "max")}  # the statistics that are mapped to [-1, 1]
ACTION_SPACES = ("delta_end_effector", "absolute_joint")


@dataclass(frozen=True)
class FamilyConfig:
    """Facts of the robot that the checkpoint was trained for."""

    chunk_length: int
    num_views: int
    center_crop: bool
    proprio_normalization: str  # of the actions too
    action_space: str
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """Which values a fact may have."""

    allowed: str  # in words
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Fact:
    """A fact and where it was read: 'argument', 'config.json', or 'known for KEY', which is assumed, not read."""

    value: Any
    source: str
    assumed: bool = False


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, str) for entry in value)


KINDS = {
    "chunk_length": Kind("a whole number of at least 1", _is_count),
    "num_views": Kind("a whole number of at least 1", _is_count),
    "center_crop": Kind("true or false", lambda value: isinstance(value, bool)),
    "proprio_normalization": Kind(" or ".join(NORMALIZATIONS), lambda value: value in tuple(NORMALIZATIONS)),
    "action_space": Kind(" or ".join(ACTION_SPACES), lambda value: value in ACTION_SPACES),
    "action_names": Kind("a list with a name for each action dimension", _are_texts),
    "action_units": Kind("a list with a unit for each action dimension", _are_texts),
}


@cache
def families() -> dict[str, dict[str, Any]]:
    """`families.yaml`: family -> its facts and, under `keys`, the data sets that it is known for."""
    result: dict[str, dict[str, Any]] = yaml.safe_load(
        resources.files("specprune_ros.openvla").joinpath("families.yaml").read_text()
    )
    return result


def family_of(unnorm_key: str) -> str:
    """Name of the family that a data set belongs to, by its whole name; "" when it is not known."""
    return next((name for name, facts in families().items() if unnorm_key in facts["keys"]), "")


def facts(unnorm_key: str, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Fact]:
    """Every fact that is known: `overrides` first, then `config.json`, then the family of `unnorm_key`.

    None says nothing. Raises CheckpointError for a value that is not of its kind.
    """
    known = families().get(family_of(unnorm_key), {})
    found = {}
    for name, kind in KINDS.items():
        candidates = (
            Fact(overrides.get(name), "argument"),
            Fact(config.get(name), "config.json"),
            Fact(known.get(name), f"known for {unnorm_key}", assumed=True),
        )
        fact = next((fact for fact in candidates if fact.value is not None), None)
        if fact is None:
            continue
        if not kind.fits(fact.value):
            raise CheckpointError(f"{name} ({fact.source}) is {shown(fact.value)}; it has to be {kind.allowed}")
        found[name] = fact
    return found


def family_config(unnorm_key: str, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> FamilyConfig:
    """The `facts` together. Raises CheckpointError that names every missing one with its allowed values."""
    found = facts(unnorm_key, config, overrides)
    missing = [f"{name} ({kind.allowed})" for name, kind in KINDS.items() if name not in found]
    if missing:
        raise CheckpointError(
            f"{', '.join(missing)}: not known for unnorm_key '{unnorm_key}'; set them as parameters model.*, as "
            "arguments of Policy.from_checkpoint or in config.json; the doctor prints a snippet to fill in"
        )
    values: dict[str, Any] = {name: fact.value for name, fact in found.items()}
    for name in ("action_names", "action_units"):
        values[name] = tuple(values[name])
    return FamilyConfig(**values)
