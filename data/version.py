"""The version of the program, which pyproject.toml states."""


def program_version() -> str:
    """The version of the installed distribution; `0+checkout` in a tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("clipcap-cache")
    except PackageNotFoundError:
        return "0+checkout"
