"""Losses: what a network is trained towards. An objective is a weighted sum of them.

A loss is called with the student's outputs, the teacher's (None without a teacher) and the labels,
and returns a scalar. Outputs are dicts of tensors by tap: `logits` (n, classes), `features`
(n, channels: what the classifier reads), `stage1`... (n, channels, height, width). Its attributes
say what it needs: `teacher` (a teacher at all) and `taps`.
"""
