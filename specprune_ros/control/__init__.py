"""Chunk execution, limits and end-effector motion. No ROS, no clock of its own: every call gets the time in seconds.

executor   ChunkExecutor, ExecutorConfig: `submit` chunks, `step(now)` -> Command or Hold
command    Command, Hold, HoldReason, Receipt, Refusal
plan       Plan: a chunk laid out in time
watchdog   Watchdog: which watched input is stale
pose       Pose: position (3,) m and quaternion (4,) xyzw; `a @ b`, `inverse()`
transform_buffer  TransformBuffer: `set_transform`, `lookup(target, source, stamp)` -> Transform; TransformError
motion     TwistEstimator: `add(stamp, position, quaternion)`, `twist(at)` -> (6,) or None
"""
