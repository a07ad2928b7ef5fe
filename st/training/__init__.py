"""Training: the loop, optimiser, recipe, objective and losses; resuming; several processes."""
