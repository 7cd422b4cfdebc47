"""Pictures of episodes: kept patches, videos, plots. No ROS."""
