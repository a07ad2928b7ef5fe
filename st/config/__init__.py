"""What params.yaml says: its types, its checks, the grid of jobs, the files and code of each."""
