"""What setup.py refuses to build with, said without a traceback."""


class BuildError(Exception):
    """Names what is wrong, what it was, and what is allowed or needed."""
