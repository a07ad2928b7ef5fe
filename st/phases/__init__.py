"""The phases of the pipeline: one thin module for each command.

Each has a function `run(job, files...)` that reads its input files and writes its output files; the
job (see st/config/grid.py) says all else.
"""
