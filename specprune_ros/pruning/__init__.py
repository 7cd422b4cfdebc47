"""The method, SpecPrune-VLA: torch only, no ROS."""
