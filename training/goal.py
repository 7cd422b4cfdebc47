# SPDX-License-Identifier: Apache-2.0
"""A second auxiliary task: where, from the gripper, the thing to move is and where it goes. Its head is dropped later.

Behaviour cloning learns slowly which of several things the instruction means and how depth shows in two views, because
most actions are clipped to full speed. The decoder says both at its end, from the hidden states that the action head
reads.
"""

from torch import Tensor, nn

from training.process_group import Mean

METRES = 0.1  # one unit of the prediction


class GoalHead(nn.Module):
    def __init__(self, step_width: int):
        super().__init__()
        self.linear = nn.Linear(step_width, 6)

    def forward(self, steps: Tensor) -> Tensor:
        """(B, C, step width) hidden states of a chunk -> (B, 2, 3) from the gripper to thing and goal, in `METRES`."""
        return self.linear(steps.mean(dim=1)).float().unflatten(1, (2, 3))


def goal_error(predicted: Tensor, goal: Tensor) -> Mean:
    """Mean absolute error per coordinate of the head's output, for goals (B, 2, 3) in metres; in `METRES`."""
    return Mean.of((predicted - goal / METRES).abs())
