"""A robot in a process of its own, to be killed: publishes the inputs of PolicyClient until then."""

import time

import rclpy
from policy_client import PolicyClient

if __name__ == "__main__":
    context = rclpy.Context()
    context.init()
    robot = PolicyClient(context, process=None)
    while True:
        robot.publish_inputs()
        time.sleep(0.05)
