# SPDX-License-Identifier: Apache-2.0
"""How sure a rate is, a difference of pairs, and a mean of observations that come in groups."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, wilcoxon

Z = 1.959964  # of a two-sided 95 % interval


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a rate (E. B. Wilson, 1927)."""
    if not trials:
        return 0.0, 1.0
    rate, z2 = successes / trials, Z * Z
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_p_value(first: Sequence[bool], second: Sequence[bool]) -> float:
    """McNemar's exact test: how likely so uneven a split of the differing pairs is when both are equally good."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def paired_rates(**ways: Sequence[bool]) -> dict[str, object]:
    """Successes of two named ways from the same starts, with their intervals, as the benchmarks' JSON has them."""
    rates: dict[str, object] = {}
    for name, successes in ways.items():
        rates |= {name: sum(successes), f"{name}_interval": wilson(sum(successes), len(successes))}
    return rates | {"p_of_a_difference": paired_p_value(*ways.values())}


def signed_rank_p_value(differences: Sequence[float]) -> float:
    """Wilcoxon's signed-rank test: how likely such differences of pairs are when neither side tends to be larger."""
    if not any(differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)


def grouped_mean(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """Mean of all observations, and its standard error when those of one group (1-D array) may be alike.

    The cluster-robust one: groups are independent, whatever holds within them (Liang and Zeger, 1986). With one group
    alone its observations are taken as independent.
    """
    everything = np.concatenate(groups)
    mean = everything.mean()
    sums = np.array([(group - mean).sum() for group in groups]) if len(groups) > 1 else everything - mean
    count = len(sums)
    return float(mean), float(np.sqrt(count / max(1, count - 1) * (sums**2).sum()) / len(everything))
