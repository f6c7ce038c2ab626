"""What the page needs beside the core: one line when it is not installed."""

_COMMAND = "pip install 'itm-fast[report]'"


def missing(package: str) -> ImportError:
    """The error for a package of the extra that is not there.

    Args:
        package: its name.

    Returns:
        An error to raise.

    Example:
        >>> str(missing("jinja2"))
        "a report needs jinja2, which is not installed: pip install 'itm-fast[report]'"
    """
    return ImportError(f"a report needs {package}, which is not installed: {_COMMAND}")
