# SPDX-License-Identifier: Apache-2.0
"""What the heads know of the decoder: a function.

A head owns how actions come out of the decoder: what stands at the action positions, how many passes it takes, what is
read off. Whoever runs the decoder (dense, pruned, captured in a CUDA graph) knows nothing of heads.
"""

from typing import Protocol

from torch import Tensor


class Decode(Protocol):
    """One pass of the decoder over the whole sequence of one inference."""

    def __call__(self, own: Tensor | None = None, actions: Tensor | None = None) -> Tensor:
        """Final-norm hidden states (C * A, hidden) of the action rows.

        `own`: tokens of the head's own (k, hidden), which follow proprio. `actions`: what stands at the action
        positions (C * A, hidden), zeros by default.
        """
