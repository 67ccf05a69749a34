"""``python -m conpet.cli``."""

from conpet.cli.app import main

main()
