# SPDX-License-Identifier: Apache-2.0
"""Names of the array types that travel between the rooms."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]  # (H, W, 3) RGB unless its docstring says otherwise
