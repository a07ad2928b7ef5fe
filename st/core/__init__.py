"""What all rooms stand on: errors, files, the registry, random streams, devices and GPU slots."""
