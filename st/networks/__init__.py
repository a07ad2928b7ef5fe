"""Networks as data and as modules: graphs, structures, checkpoints, architectures and inits."""
