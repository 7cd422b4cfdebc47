# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT with SpecPrune-VLA token pruning as a real-time ROS 2 policy."""

from pkgutil import extend_path

# specprune_ros.msg is generated at build time and lies elsewhere on the path when this runs from a source checkout.
__path__ = extend_path(__path__, __name__)
