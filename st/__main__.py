"""`python -m st` is `st`."""

from st.cli import entry

entry()
