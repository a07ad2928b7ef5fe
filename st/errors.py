"""The one exception that a user is meant to read."""


class StError(Exception):
    """A one-line message: the file or key, what is wrong with it, and what to do.

    The CLI prints it without a traceback and exits with status 2; the workflow raises it as a
    WorkflowError. Anything else that escapes is a bug and keeps its traceback.
    """
