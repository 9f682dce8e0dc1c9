"""`python -m tunery`."""

from tunery.cli.main import main

main()
