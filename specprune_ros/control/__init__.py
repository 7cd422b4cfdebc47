"""Chunk execution, limits and end-effector motion. No ROS, no clock of its own: every call gets the time in seconds.

executor   ChunkExecutor, ExecutorConfig: `submit` chunks, `step(now)` -> Command or Hold
command    Command, Hold, HoldReason, Receipt, Refusal
plan       Plan: a chunk laid out in time
watchdog   Watchdog: which watched input is stale
"""
