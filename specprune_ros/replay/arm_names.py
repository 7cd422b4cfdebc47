# SPDX-License-Identifier: Apache-2.0
"""What the arms of the comparison are called, beside YAML files."""

from specprune_ros.pruning.config import PRESETS

DENSE, NODE = "dense", "node"  # the reference; what the parameter file says
DEFAULT_ARMS = (DENSE, NODE, *PRESETS)
