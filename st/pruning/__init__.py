"""From a supernet to a structure: criteria, selection within a budget, latency, lottery, TAS.

May import core, networks, data and training. Imported by config, phases and the top.
"""
