"""Training: the loop, optimiser, recipe, objective and losses; resuming; several processes.

May import core, networks and data. Imported by pruning, config, phases and the top.
"""
