"""From a supernet to a structure: criteria, selection within a budget, latency, lottery, TAS."""
