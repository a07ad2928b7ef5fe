"""What all rooms stand on: errors, files, the registry, random streams, devices and GPU slots.

May import nothing of st. All rooms may import it.
"""
