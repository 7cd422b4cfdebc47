# SPDX-License-Identifier: Apache-2.0
"""Chunk execution, limits and hold. No ROS, no clock of its own: every call gets the time in seconds.

A node builds one `Arm`, gives it chunks (`arm.executor.submit`), reports fresh inputs (`arm.watchdog.feed`), calls
`arm.tick` at the control rate, and turns the answer into messages with `adapters`.

arm                Arm: `tick(now, pose, joints)` -> Motion (within limits) or Hold; `limits` may be replaced live
executor           ChunkExecutor: `enable`, `stop`, `clear`, `submit(actions, stamp, dt, now)` -> Receipt,
                   `step(now)` -> Command or Hold; ExecutorConfig (group execution), may be replaced live
command            Command, Hold, HoldReason, Receipt, Refusal
plan               Plan: a chunk laid out in time
watchdog           Watchdog: `feed(name, stamp)`, `lost(name)`, `stale(now)`
action_space       ControllerConfig (group controller), ActionSpace: checkpoint units -> twist, joints, openings
limits             LimitsConfig (group limits); enforced by cartesian_limiter, joint_limiter, gripper
adapters           TargetPose, joint_point, joint_hold, gripper_commands, gripper_point, STOP: numbers for messages
replan             ReplanConfig (group replan), Replanner: `due(motion, mode, latency)` -> ReplanReason or None
takeover           TakeoverConfig (group takeover), Takeover: a person by ~/takeover or a device; InCharge
chunk_trajectory   ChunkTrajectory: a chunk as one trajectory within the limits; `roll_out`, `starting`
run                RunConfig (group run), Run: one task on ~/run_policy, `update(tick)` -> Ending or None
deviation          PoseDeviation: how far the arm has left the plan
"""
