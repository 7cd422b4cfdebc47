# SPDX-License-Identifier: Apache-2.0
"""Whether a soak passed, from what was recorded."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_GROWTH = 5.0  # MiB of anonymous memory
MAX_TICK = 2.0  # control periods from one tick to the next, less what the machine is to blame for
WARM_UP = 60.0  # seconds in which memory may grow: caches fill, allocators settle
WARM_UP_SHARE = 0.4  # of a short soak
WINDOW = 0.2  # of the rest: its first and last part are compared, by their medians
ENOUGH_INPUT = 0.9  # of the nominal rates


@dataclass(frozen=True)
class Tick:
    """One control tick."""

    stamp: float  # seconds, when it began
    gap: float  # seconds since the one before
    machine: float  # seconds of the gap that the machine is to blame for; 0 where the gap is not late
    moves: bool  # the command was not a hold


@dataclass
class Series:
    """What was recorded. Times are time.time()."""

    period: float  # of control, seconds
    nominal_rates: dict[str, float]  # end of a topic's name -> Hz
    ticks: list[Tick] = field(default_factory=list)
    memory: list[tuple[float, float, float]] = field(default_factory=list)  # time, anonymous MiB, resident MiB
    inferences: list[tuple[float, float, float, str]] = field(default_factory=list)  # time, s, age s, mode
    rates: list[dict[str, float]] = field(default_factory=list)  # "topic Hz" -> Hz


def summary(series: Series) -> dict[str, Any]:
    """Numbers and `failures`, a list of lines, empty when the node passed."""
    found: dict[str, Any] = {
        "memory": _memory(series),
        "ticks": _ticks(series),
        "inference": _inference(series),
        "input_rates_hz": _rates(series),
    }
    found["failures"] = _failures(series, found)
    return found


def warm_up(series: Series) -> float:
    """Seconds at the start in which memory may grow."""
    return min(WARM_UP, WARM_UP_SHARE * (series.memory[-1][0] - series.memory[0][0]))


def _memory(series: Series) -> dict[str, float]:
    times, anonymous, resident = np.array(series.memory).T
    times -= times[0]
    settled = times >= warm_up(series)
    count = max(round(WINDOW * settled.sum()), 1)

    def growth(values: np.ndarray) -> float:
        return float(np.median(values[settled][-count:]) - np.median(values[settled][:count]))

    return {
        "warm_up_s": warm_up(series),
        "anonymous_growth_mib": growth(anonymous),
        "resident_growth_mib": growth(resident),
        "anonymous_first_mib": float(anonymous[0]),
        "anonymous_last_mib": float(anonymous[-1]),
        "resident_last_mib": float(resident[-1]),
    }


def _ticks(series: Series) -> dict[str, float]:
    gaps = np.array([tick.gap for tick in series.ticks]) / series.period
    own = np.array([max(tick.gap - tick.machine, min(tick.gap, series.period)) for tick in series.ticks])
    late = (gaps - 1) * series.period * 1e3
    return {
        "count": len(gaps),
        "held": sum(not tick.moves for tick in series.ticks),
        "late_p50_ms": float(np.percentile(late, 50)),
        "late_p99_ms": float(np.percentile(late, 99)),
        "late_p999_ms": float(np.percentile(late, 99.9)),
        "late_max_ms": float(late.max()),
        "longest_gap_periods": float(gaps.max()),
        "longest_own_gap_periods": float(own.max() / series.period),
        "gaps_over_2_periods": int((gaps > MAX_TICK).sum()),
        "own_gaps_over_2_periods": int((own > MAX_TICK * series.period).sum()),
    }


def _inference(series: Series) -> dict[str, Any]:
    seconds = np.array([inference[1] for inference in series.inferences]) * 1e3
    ages = np.array([inference[2] for inference in series.inferences]) * 1e3
    modes = [inference[3] for inference in series.inferences]
    duration = series.inferences[-1][0] - series.inferences[0][0]
    return {
        "count": len(seconds),
        "rate_hz": (len(seconds) - 1) / max(duration, 1e-9),
        "p50_ms": float(np.percentile(seconds, 50)),
        "p99_ms": float(np.percentile(seconds, 99)),
        "max_ms": float(seconds.max()),
        "observation_age_p50_ms": float(np.percentile(ages, 50)),
        "observation_age_p99_ms": float(np.percentile(ages, 99)),
        "modes": {mode: modes.count(mode) for mode in sorted(set(modes))},
    }


def _rates(series: Series) -> dict[str, float]:
    """Medians of what the node measured, by topic."""
    topics = sorted({topic for rates in series.rates for topic in rates})
    return {
        topic.removesuffix(" Hz"): float(np.median([rates[topic] for rates in series.rates if topic in rates]))
        for topic in topics
    }


def _failures(series: Series, found: dict[str, Any]) -> list[str]:
    failures = []
    growth = found["memory"]["anonymous_growth_mib"]
    if growth > MAX_GROWTH:
        failures.append(f"memory grew by {growth:.1f} MiB after the warm-up; allowed: {MAX_GROWTH:g}")
    longest = found["ticks"]["longest_own_gap_periods"]
    if longest > MAX_TICK:
        failures.append(f"the node missed control ticks for {longest:.1f} periods; allowed: {MAX_TICK:g}")
    for topic, nominal in series.nominal_rates.items():
        rate = next((rate for name, rate in found["input_rates_hz"].items() if name.endswith(topic)), 0.0)
        if rate < ENOUGH_INPUT * nominal:
            failures.append(f"{topic} came at {rate:.1f} Hz instead of {nominal:g}: not the full input rate")
    return failures
