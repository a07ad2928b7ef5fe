"""Images: prepared data sets and where they come from, batches on the device, augmentation.

May import core. Imported by training, pruning, phases and the top.
"""
