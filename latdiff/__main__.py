"""`python -m latdiff` is `latdiff`."""

from latdiff.cli import main

main()
