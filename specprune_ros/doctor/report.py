# SPDX-License-Identifier: Apache-2.0
"""The doctor's findings on one checkpoint, for people and for programs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specprune_ros.checks import FAIL, PASS, WARN, Check, table
from specprune_ros.doctor.adapter import check_adapter
from specprune_ros.doctor.episode import Episode, check_episode
from specprune_ros.doctor.facts import check_facts, facts_table, missing_facts, snippet
from specprune_ros.doctor.files import check_files
from specprune_ros.doctor.identity import check_identity
from specprune_ros.doctor.instruction import check_instruction
from specprune_ros.doctor.robot import Robot, check_robot
from specprune_ros.doctor.statistics import check_statistics, statistics_json, statistics_table
from specprune_ros.doctor.subject import Subject, read_subject
from specprune_ros.openvla.files import expanded


@dataclass(frozen=True)
class Report:
    """What was read of a checkpoint, and the rows about it."""

    subject: Subject
    checks: list[Check]

    @property
    def verdict(self) -> str:
        """The worst of all checks."""
        return next((verdict for verdict in (FAIL, WARN) if any(row.verdict == verdict for row in self.checks)), PASS)

    def text(self) -> str:
        """The table, then facts and statistics, then what to fill in."""
        subject = self.subject
        parts = [f"{subject.folder}\n\n{table(self.checks)}"]
        if subject.facts:
            parts.append(f"facts that no weight tells\n{facts_table(subject.facts)}")
        if subject.unnorm_key and (numbers := statistics_table(subject)):
            parts.append(f"statistics of {subject.unnorm_key}\n{numbers}")
        if missing_facts(subject):
            parts.append(f"write this into my_arm.yaml, and change every line to what is true\n\n{snippet(subject)}")
        return "\n\n".join(parts)

    def json(self) -> dict[str, Any]:
        """What `--json` prints."""
        subject = self.subject
        config = subject.contents.config if subject.contents else None
        return {
            "folder": str(subject.folder),
            "verdict": self.verdict,
            "checks": [{"name": row.name, "verdict": row.verdict, "detail": row.detail} for row in self.checks],
            "variant": str(subject.variant) if subject.variant else None,
            "unnorm_key": subject.unnorm_key or None,
            "sizes": None
            if config is None
            else {
                "num_views": config.num_views,
                "chunk_length": config.chunk_length,
                "action_dim": config.action_dim,
                "proprio_dim": config.proprio_dim,
                "image_size": config.image_size,
                "head": config.head,
            },
            "facts": {
                name: {"value": fact.value, "source": fact.source, "assumed": fact.assumed}
                for name, fact in subject.facts.items()
            },
            "missing_facts": missing_facts(subject),
            "statistics": statistics_json(subject),
        }


def examine(
    folder: Path, robot: Robot, episodes: Sequence[Episode] = (), base: Path | None = None, fits: bool = True
) -> Report:
    """Look at a checkpoint without loading it.

    `robot`: its parameters; with `fits` the checkpoint has to fit them, else only `model.*` and the instruction count.
    `base`: the checkpoint that it was fine-tuned from, instead of `model.base_checkpoint`.
    Raises CheckpointError when `folder` is no folder at all; whatever else is wrong becomes a row.
    """
    given = robot.model.base_checkpoint
    subject = read_subject(folder, robot.model, base or (expanded(given) if given else None))
    rows = check_files(folder)
    rows += check_identity(subject)
    rows += check_facts(subject)
    rows += check_statistics(subject)
    rows += check_adapter(subject)
    if fits:
        rows += check_robot(subject, robot)
    for episode in episodes:
        rows += check_episode(subject, episode)
    tokenizer = subject.contents.tokenizer if subject.contents else None
    seen = [instruction for episode in episodes for instruction in episode.instructions]
    rows += check_instruction(robot.instruction, tokenizer, seen)
    told = {row.detail for row in rows}
    return Report(subject, [*(row for row in subject.problems if row.detail not in told), *rows])
