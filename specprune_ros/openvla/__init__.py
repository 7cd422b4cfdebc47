# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT, dense: the model, its checkpoint format, its preprocessing. No ROS, no pruning.

Read in this order: config, prompt, preprocessing, vision, film, projectors, decoder, decode, l1_head, diffusion_head,
discrete_head, model; then, for loading, variant (what a folder is), statistics, weight_files, lora, film_towers,
weight_map, checkpoint.
"""
