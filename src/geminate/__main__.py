"""``python -m geminate``: the same as the command ``geminate``."""

from geminate.cli.app import app

app(prog_name="geminate")
