"""OpenVLA-OFT, dense: the model, its checkpoint format, its preprocessing. No ROS, no pruning.

Read in this order: config, prompt, preprocessing, vision, projectors, decoder, action_head, model; then, for loading,
statistics, weight_files, weight_map, checkpoint.
"""
