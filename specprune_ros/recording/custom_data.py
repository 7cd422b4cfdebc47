# SPDX-License-Identifier: Apache-2.0
"""What we put into a bag beside its messages, by name."""

CUSTOM = "specprune_ros."
PARAMETERS, REMAPPINGS, DIGEST, CHECKPOINT = (
    CUSTOM + name for name in ("parameters", "remappings", "checkpoint_digest", "checkpoint")
)
