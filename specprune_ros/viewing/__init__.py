# SPDX-License-Identifier: Apache-2.0
"""Pictures of episodes: kept patches, videos, plots. No ROS."""
