"""The phases of the pipeline.

Each has a function `run(job, files...)` that reads its input files and writes its output files; the
job (see st/grid.py) says all else.
"""
