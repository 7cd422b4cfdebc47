# SPDX-License-Identifier: Apache-2.0
"""The checkpoint on the table: every part of it that can be read, and a row for each part that cannot."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from specprune_ros.checkpoint_config import CheckpointConfig
from specprune_ros.checks import FAIL, Check
from specprune_ros.errors import UserError
from specprune_ros.openvla.contents import Contents, read_contents
from specprune_ros.openvla.family import KINDS, Fact, facts
from specprune_ros.openvla.files import check_folder, exists, read_json
from specprune_ros.openvla.statistics import FILE as STATISTICS_FILE
from specprune_ros.openvla.statistics import choose_key, read_statistics
from specprune_ros.openvla.variant import Variant, identify, own_config
from specprune_ros.openvla.weight_files import WeightFiles, has_weights

T = TypeVar("T")


@dataclass
class Subject:
    """What was read; None or empty where `problems` say why not."""

    folder: Path
    base: Path | None  # the checkpoint that it was fine-tuned from, when given
    given: dict[str, Any]  # facts by parameters
    variant: Variant | None = None
    config: dict[str, Any] = field(default_factory=dict)  # config.json
    statistics: dict[str, Any] = field(default_factory=dict)
    unnorm_key: str = ""
    facts: dict[str, Fact] = field(default_factory=dict)
    weights: WeightFiles | None = None
    contents: Contents | None = None  # all of it, when everything fits together
    problems: list[Check] = field(default_factory=list)

    def attempt(self, name: str, action: Callable[[], T]) -> T | None:
        """The action's result; None, and a row under `name`, when it raises what a user can fix."""
        try:
            return action()
        except UserError as error:
            self.problems.append(Check(name, FAIL, str(error)))
            return None


def read_subject(folder: Path, model: CheckpointConfig, base: Path | None) -> Subject:
    """Read the headers and small files of a checkpoint. Raises CheckpointError when `folder` is no folder."""
    check_folder(folder)
    subject = Subject(folder, base, model.facts())
    # A base given for a merged checkpoint is only compared with.
    needed = None if has_weights(folder) else base
    subject.variant = subject.attempt("variant", lambda: identify(folder, needed))
    home = subject.variant.weights if subject.variant else folder
    if subject.variant or exists(home / "config.json"):
        subject.config = subject.attempt("config.json", lambda: read_json(home / "config.json")) or {}
    own = subject.config
    if subject.variant:
        variant = subject.variant
        own = subject.attempt("config.json", lambda: own_config(variant, subject.config)) or {}
    if own or exists(folder / STATISTICS_FILE):
        read = subject.attempt("statistics", lambda: read_statistics(folder, own))
        subject.statistics = read or {}
    if subject.statistics:
        key = subject.attempt("unnorm_key", lambda: choose_key(subject.statistics, model.unnorm_key or None))
        subject.unnorm_key = key or ""
    if subject.unnorm_key:
        found = subject.attempt("facts", lambda: facts(subject.unnorm_key, own, subject.given))
        subject.facts = found or {}
    stated = len(subject.facts) == len(KINDS)
    if stated and not subject.problems:
        arguments = folder, model.unnorm_key or None, subject.given, needed
        subject.contents = subject.attempt("contents", lambda: read_contents(*arguments))
    if subject.variant and not subject.variant.quantized:
        subject.weights = subject.attempt("weights", lambda: WeightFiles(home))
    return subject
