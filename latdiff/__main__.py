"""The `latdiff` command, which `python -m latdiff` is as well."""

from latdiff.errors import plain_errors


def main() -> None:
    """Run the command line; what stops its first imports prints no traceback either."""
    with plain_errors():
        from latdiff import cli

        cli.main()


if __name__ == "__main__":
    main()
