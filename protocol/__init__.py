"""The vocabulary every other package speaks: identifiers, messages, errors, configuration, wire formats.

Imports nothing of ours. Knows no socket, no disk and no clock.
"""
