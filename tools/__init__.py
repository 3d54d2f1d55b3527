"""Commands for people: `python -m tools.X`."""
