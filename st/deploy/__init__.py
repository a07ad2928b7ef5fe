"""A trained network outside of the pipeline: in Python, as a file for other programs, explained.

What users may rely on is `st.__all__`, and documented in docs/deploy.md.
"""
