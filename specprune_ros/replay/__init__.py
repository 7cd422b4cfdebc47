"""Recorded episodes: what was seen and predicted, and the video, plot and summary made from it.

Only `recorder` and `demo` import rclpy.
"""
