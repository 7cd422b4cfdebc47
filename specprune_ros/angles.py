# SPDX-License-Identifier: Apache-2.0
"""Angles of joints, some of which turn without end: those are compared on the circle."""

import numpy as np

FULL_TURN = 2 * np.pi


def shortest(difference: np.ndarray, continuous: np.ndarray | bool) -> np.ndarray:
    """`difference` (J,) rad, by the short way round where `continuous` (J,) is true: from -pi to pi."""
    return np.where(continuous, (difference + np.pi) % FULL_TURN - np.pi, difference)


def beside(angles: np.ndarray, reference: np.ndarray, continuous: np.ndarray | bool) -> np.ndarray:
    """`angles` (J,) rad, written with as many turns as bring them nearest to `reference` (J,)."""
    return np.where(continuous, reference + shortest(angles - reference, continuous), angles)
