"""Networks as data and as modules: graphs, structures, checkpoints, architectures and inits.

May import core. Imported by training, pruning, config, phases and the top.
"""
