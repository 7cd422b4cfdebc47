# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint is and what is wrong with it, without loading it."""
