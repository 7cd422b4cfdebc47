# SPDX-License-Identifier: Apache-2.0
"""One colour per pruning mode, in video and plots alike."""

from specprune_ros.pruning.schedule import Mode

MODE_COLORS = {Mode.OFF: "#8c8c8c", Mode.DENSE: "#e08a1e", Mode.COARSE: "#2f9e6e", Mode.FINE: "#3d7edb"}
