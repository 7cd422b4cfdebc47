# SPDX-License-Identifier: Apache-2.0
"""The files that a replay leaves, complete or not at all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specprune_ros.errors import no_space
from specprune_ros.openvla.digest import digest
from specprune_ros.openvla.files import expanded
from specprune_ros.policy import Observation
from specprune_ros.replay.arms import Arms
from specprune_ros.replay.bag import Bag
from specprune_ros.replay.bag_repair import BagError
from specprune_ros.replay.chunks_bag import ChunksBag
from specprune_ros.replay.differences import ChunkSpace
from specprune_ros.replay.finding import Finding
from specprune_ros.replay.inference_json import moment_json
from specprune_ros.replay.junit import write_junit
from specprune_ros.replay.measurements import Measurements
from specprune_ros.replay.moment import Moment, Spool
from specprune_ros.replay.options import INTERRUPTED, Options, say
from specprune_ros.replay.page_builder import write_page
from specprune_ros.replay.run import Outcome, Replay
from specprune_ros.replay.settings import Settings
from specprune_ros.replay.summary import FORMAT, exceeded, machine, number, summarize, verdict

FILES = ("report.html", "report.json", "chunks.mcap", "junit.xml")
SPANS = 5  # times that a person was in charge, named in the report
SETUP = "setup"  # kind of the findings about parameters and checkpoint
EXCEEDED = 3  # exit code


@dataclasses.dataclass(frozen=True)
class _Both:
    """Measures moments and writes their chunks."""

    found: Measurements
    chunks: ChunksBag

    def add(self, moment: Moment, observation: Observation) -> None:
        self.found.add(moment)
        self.chunks.add(moment, observation)

    def add_next(self, stamp: int, actions: NDArray[np.float64]) -> None:
        self.found.add_next(stamp, actions)


class Results:
    """The files of one replay, made in a folder that nobody takes for whole, then moved."""

    def __init__(
        self, folder: Path, options: Options, bag: Bag, node: Settings, arms: Arms, warnings: list[str]
    ) -> None:
        self._folder, self._options, self._bag, self._node, self._arms = folder, options, bag, node, arms
        self._warnings = warnings

    def make(self, replay: Replay) -> int:
        """Run the replay and write everything. Returns the exit code."""
        options, folder = self._options, self._folder
        found = Measurements(ChunkSpace(self._node.controller, self._arms.dense.action_dim), list(self._arms.policies))
        chunks = ChunksBag(
            folder / "chunks", self._arms.dense, self._node.inputs.base_frame, self._node.controller.step_duration
        )
        spool = Spool(folder / "moments")

        try:
            outcome = replay.run(spool, options.start, options.duration, _Both(found, chunks), options.quiet)
            replay.audit.finish()
            if not len(spool):
                raise BagError(nothing(self._bag, replay, outcome))
            chunks.finish(folder / "chunks.mcap")
            report = self._report(replay, outcome, found)
            _write_json(folder / "report.json", report, spool)
            write_page(folder / "report.html", report, found, spool, self._arms.dense, self._node.inputs.proprio)
        except OSError as error:
            raise no_space(error, options.out) from error
        finally:
            spool.close()
            chunks.abort()
        for finding in report["findings"]:
            if finding["kind"] != SETUP:  # said before the replay began
                say(f"{finding['level']}: {finding['text']}")
        for sentence in filter(None, report["verdict"]):
            say(sentence)
        return self._code(report, outcome)

    def move(self, out: Path) -> None:
        """Put the finished files where the user expects them; those of an earlier replay are replaced."""
        for name in FILES:
            (out / name).unlink(missing_ok=True)
            if (self._folder / name).exists():
                (self._folder / name).replace(out / name)

    def _report(self, replay: Replay, outcome: Outcome, found: Measurements) -> dict[str, Any]:
        options, node, arms = self._options, self._node, self._arms
        comparison = summarize(found)
        findings = replay.audit.findings(self._bag.malformed)
        findings += [Finding(SETUP, "warning", warning) for warning in self._warnings]
        findings += about(outcome)
        said = verdict(comparison, findings)
        checks = exceeded(comparison, options.max_error, options.max_flips, options.max_latency)
        if checks:
            write_junit(self._folder / "junit.xml", checks)
        return {
            "format": FORMAT,
            "verdict": said.sentences(),
            "chosen": said.chosen,
            "complete": not outcome.interrupted,
            "findings": [vars(finding) for finding in findings],
            **comparison,
            "limits": [{"arm": arm, "limit": limit, "exceeded": problem} for arm, limit, problem in checks],
            "recorded_chunks": {
                "arm": outcome.recorded.arm,
                "compared": outcome.recorded.compared,
                "equal": outcome.recorded.equal,
                "largest_difference": number(outcome.recorded.largest),
            },
            "taken_over_s": [list(span) for span in outcome.persons.spans],
            "failures": outcome.failures,
            "audit": replay.audit.summary(),
            "warm_ms": {
                arm: {mode: number(seconds * 1e3) for mode, seconds in modes.items()}
                for arm, modes in arms.warm_seconds.items()
            },
            "configurations": {
                arm: None if config is None else dataclasses.asdict(config) for arm, config in arms.configs.items()
            },
            "bag": str(self._bag.path),
            "replayed_s": number(outcome.until),
            "inferred_on": _inferred_on(options),
            "checkpoint": node.model.checkpoint,
            "checkpoint_digest": digest(expanded(node.model.checkpoint)),
            "unnorm_key": arms.dense.unnorm_key,
            "number_format": f"dtype {node.model.dtype}, precision {arms.dense.precision}",
            "machine": machine(str(arms.dense.device)),
        }

    def _code(self, report: dict[str, Any], outcome: Outcome) -> int:
        for limit in report["limits"]:
            if limit["exceeded"]:
                say(f"--{limit['limit']}: arm {limit['arm']}: {limit['exceeded']}")
        if outcome.interrupted:
            return INTERRUPTED
        return EXCEEDED if any(limit["exceeded"] for limit in report["limits"]) else 0


def _inferred_on(options: Options) -> str:
    """Which observations the arms saw, in words."""
    if options.as_recorded:
        return "where the recorded node did"
    if options.rate:
        return f"at most {options.rate:g} times a second"
    return "every observation" if options.every == 1 else f"one of {options.every} observations"


def about(outcome: Outcome) -> list[Finding]:
    """What went wrong in the replay itself."""
    found = []
    if outcome.interrupted:
        text = f"interrupted after {outcome.until:.1f} s of the bag; everything here is about that part"
        found.append(Finding("interrupted", "warning", text))
    if outcome.failures:
        first = outcome.failures[0]
        text = f"{len(outcome.failures)} inferences failed, the first at stamp {first['stamp']} ns: {first['error']}"
        found.append(Finding("failed", "error", text))
    if outcome.persons.spans:
        spans = ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in outcome.persons.spans[:SPANS])
        more = "" if len(outcome.persons.spans) <= SPANS else f" and {len(outcome.persons.spans) - SPANS} times more"
        text = f"a person was in charge of the arm from {spans}{more}: what it did then is not the policy's doing"
        found.append(Finding("taken_over", "hint", text))
    return found


def nothing(bag: Bag, replay: Replay, outcome: Outcome) -> str:
    """Why there is not a single inference."""
    if outcome.failures:
        return f"{bag.path}: every inference failed, the first with: {outcome.failures[0]['error']}"
    refusals = replay.audit.summary()["refusals"]
    if refusals:
        worst = max(refusals, key=lambda refusal: refusal["count"])
        return f"{bag.path} gives no observation; refused {worst['count']} times: {worst['text']}"
    return f"{bag.path} gives no observation in this part; look at --start, --duration and --as-recorded"


def _write_json(path: Path, report: dict[str, Any], spool: Spool) -> None:
    """The report, with the moments one by one, so that a long bag needs no more memory."""
    with path.open("w") as file:
        head = json.dumps(report, indent=1, allow_nan=False)
        file.write(head[: head.rindex("}")].rstrip() + ',\n "moments": [')
        for index, moment in enumerate(spool):
            file.write(("," if index else "") + "\n  " + json.dumps(moment_json(moment), allow_nan=False))
        file.write("\n ]\n}\n")
