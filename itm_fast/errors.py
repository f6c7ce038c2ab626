"""Errors that speak of files; arguments of functions raise plain ValueError and TypeError."""


class DataError(ValueError):
    """A file on disk does not hold what it should; the message names the file, the place and what was expected."""
