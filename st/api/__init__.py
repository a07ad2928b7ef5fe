"""What Python programs and notebooks call: `st.__all__`, documented in docs/api.md.

The functions make the jobs that the workflow makes, and hand them to the code that its phases run.
"""
