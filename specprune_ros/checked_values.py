# SPDX-License-Identifier: Apache-2.0
"""Values that callers hand in, checked before anything is computed with them."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specprune_ros.errors import ObservationError


def as_array(values: Any, name: str) -> NDArray[Any]:
    """`values` as an array of whatever kind. Raises ObservationError when they cannot be one."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged, or on a device
        raise ObservationError(
            f"{name} is no array (a {type(values).__name__} of uneven parts?); give a NumPy array"
        ) from None


def as_numbers(values: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """`values` as float64 of this shape, NaN included. Raises ObservationError for anything else, such as text."""
    expected = f"expected {shape} numbers" if shape else "expected a number"
    array = as_array(values, name)
    if array.dtype.kind not in "fiu":
        raise ObservationError(f"{name} is a {type(values).__name__}, not numbers; {expected}")
    if array.shape != shape:
        raise ObservationError(f"{name} has shape {array.shape}; {expected}")
    return array.astype(np.float64)


def as_seconds(stamp: Any) -> float:
    """A stamp, seconds. Raises ObservationError when it is no finite number."""
    seconds = float(as_numbers(stamp, "stamp", ()))
    if not math.isfinite(seconds):
        raise ObservationError(f"stamp is {seconds}; give the time of the images in seconds")
    return seconds
