# SPDX-License-Identifier: Apache-2.0
"""A recording through the policy, dense and pruned, and a report about it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specprune_ros.doctor.fit import check_fits
from specprune_ros.errors import ConfigError, no_space
from specprune_ros.openvla.digest import digest
from specprune_ros.openvla.files import expanded
from specprune_ros.parameter_file import read_own_parameters, read_parameters
from specprune_ros.recording.custom_data import DIGEST, PARAMETERS, REMAPPINGS
from specprune_ros.replay import suggest
from specprune_ros.replay.arm_names import DENSE
from specprune_ros.replay.arms import Arms, distinct_arms
from specprune_ros.replay.bag import Bag
from specprune_ros.replay.bag_repair import METADATA, BagError
from specprune_ros.replay.differences import ChunkSpace
from specprune_ros.replay.moment import Spool
from specprune_ros.replay.names import Names
from specprune_ros.replay.options import INTERRUPTED, Options, say
from specprune_ros.replay.results import FILES, Results, about, nothing
from specprune_ros.replay.run import Outcome, Replay, told_instructions
from specprune_ros.replay.schedule import Schedule
from specprune_ros.replay.settings import Settings, settings
from specprune_ros.replay.topics import find_topics
from specprune_ros.stamps import NANOSECONDS, from_stamp

PARTIAL = ".replay-"  # results that are not complete yet


def run(options: Options) -> int:
    """Replay a bag and write its report. Returns the exit code. Raises UserError."""
    with Bag(options.bag) as bag:
        names = options.names if options.renamed else _recorded_names(bag)
        node = _settings(options, bag, names)
        topics = find_topics(bag, node, names)
        told = options.instruction or node.node.instruction or topics.instruction
        if not told and not (topics.chunks and told_instructions(bag, topics.chunks)):
            expected = names.resolve("~/instruction")
            raise BagError(
                f"{bag.path} has no instruction on {expected}; say with --instruction TEXT what the arm does"
            )
        _check_part(options, bag)
        chosen = distinct_arms(options.arms, node, names.full_name)
        if options.limits and set(chosen) == {DENSE}:
            raise ConfigError(
                f"--{options.limits[0]} is a limit for pruned arms; name one with --arms, as --arms paper"
            )
        arms = Arms(node, chosen)
        warnings = [f"there is no parameter {name}; it is ignored" for name in node.unknown]
        recorded = bag.custom_data.get(DIGEST)
        if recorded and recorded != digest(expanded(node.model.checkpoint)):
            warnings.append("the bag was recorded with another checkpoint than the one that is replayed")
        for warning in warnings:
            say(warning)
        stamps = _recorded_stamps(bag, topics.chunks) if options.as_recorded else None
        schedule = Schedule(options.every, options.rate, stamps)
        with _folder(options.out, options.bag) as partial:
            results = Results(Path(partial), options, bag, node, arms, warnings)
            code = results.make(Replay(bag, node, topics, arms, schedule, options.instruction))
            results.move(options.out)
    say(f"report.html, report.json and chunks.mcap are in {options.out}")
    return code


def run_search(options: Options) -> int:
    """Search pruning constants and write what was found. Returns the exit code. Raises UserError."""
    bags = (options.bag, *options.more_bags)
    with _folder(options.out, *bags) as partial:
        seen = suggest.Observations(Path(partial) / "observations")
        for number, path in enumerate(bags):
            with Bag(path) as bag:
                names = options.names if options.renamed else _recorded_names(bag)
                node = _settings(options, bag, names)
                _check_part(options, bag)
                if number == 0:
                    arms, first = Arms(node, {DENSE: None}), node
                replay = Replay(
                    bag,
                    node,
                    find_topics(bag, node, names),
                    arms,
                    Schedule(options.every, options.rate, None),
                    options.instruction,
                )
                spool = Spool(Path(partial) / f"moments{number}")
                seen.bag = number
                if number:
                    check_fits(arms.dense, node.inputs, node.controller)
                with _space(options.out):
                    outcome = replay.run(spool, options.start, options.duration, seen, options.quiet)
                    spool.close()
                arms.reset()
                if outcome.interrupted:
                    raise KeyboardInterrupt
                if number not in seen.bags:
                    raise BagError(nothing(bag, replay, outcome))
                _say_errors(bag, replay, outcome)
        with _space(options.out):
            seen.close()
        space = ChunkSpace(first.controller, arms.dense.action_dim)
        runs = suggest.Search(arms.dense, first.pruning, space, seen)
        study = suggest.open_study(options.out, suggest.identity(options, first), options.seed)
        try:
            suggest.search(study, runs, options.trials, options.minutes, options.quiet)
        except KeyboardInterrupt:
            say(f"interrupted; the same command goes on with the trials that are in {options.out / suggest.STORAGE}")
            return INTERRUPTED
        with _space(options.out):
            result = suggest.conclude(study, runs, options.out)
    say(suggest.sentence(result))
    say(f"{suggest.PAGE}, {suggest.NUMBERS} and, if something is suggested, {suggest.YAML} are in {options.out}")
    return 0


@contextmanager
def _space(out: Path) -> Iterator[None]:
    """Where a disk may be full. Raises UserError."""
    try:
        yield
    except OSError as error:
        raise no_space(error, out) from error


def _say_errors(bag: Bag, replay: Replay, outcome: Outcome) -> None:
    """What makes the numbers of a bag doubtful."""
    replay.audit.finish()
    for finding in [*replay.audit.findings(bag.malformed), *about(outcome)]:
        if finding.level == "error":
            say(f"{bag.path}: {finding.text}")


def _check_part(options: Options, bag: Bag) -> None:
    length = (bag.end - bag.start) / NANOSECONDS
    if options.start >= length:
        raise ConfigError(f"--start {options.start:g} is after the end of {bag.path}, which lasts {length:.1f} s")


def _recorded_names(bag: Bag) -> Names:
    return Names.of(json.loads(bag.custom_data.get(REMAPPINGS, "[]")))


def _settings(options: Options, bag: Bag, names: Names) -> Settings:
    if options.params_file:
        given = read_own_parameters(options.params_file, names.full_name)
    elif PARAMETERS in bag.custom_data:
        where = f"{bag.path}: recorded parameters"
        given = read_parameters(bag.custom_data[PARAMETERS], where, names.full_name)
    else:
        raise BagError(f"{bag.path} brings no parameters along; give the node's parameter file with --params-file FILE")
    return settings({**given, **options.parameters})


def _recorded_stamps(bag: Bag, topic: str) -> frozenset[int]:
    if not topic:
        raise BagError(f"--as-recorded: {bag.path} has no recorded chunks")
    return frozenset(
        from_stamp(seen.message.header.stamp) for seen in bag.messages([topic]) if len(seen.message.actions)
    )


def _folder(out: Path, *bags: Path) -> tempfile.TemporaryDirectory:
    """A folder inside `out` that vanishes unless its content is moved. Raises UserError."""
    if (out / METADATA).exists() or any(bag.parent == out and bag.name in FILES for bag in bags):
        raise ConfigError(f"--out {out} is the folder of a bag; name another one for the results")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in out.glob(PARTIAL + "*"):
            shutil.rmtree(left, ignore_errors=True)
        return tempfile.TemporaryDirectory(prefix=PARTIAL, dir=out)
    except OSError as error:
        raise no_space(error, out) from error
