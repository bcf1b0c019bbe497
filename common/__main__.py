"""``python -m common``: the command ``plgl``, where no script is on the path."""

from common.cli import main

main()
