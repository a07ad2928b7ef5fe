"""What params.yaml says: its types, its checks, the grid of jobs, the files and code of each.

May import the rooms below (core to pruning), of them what needs no torch. Imported by report,
phases, the top and the workflow.
"""
