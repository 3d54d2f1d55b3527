"""Hostile bytes for everything that reads bytes from outside: targets, what they must never do, and loops that try."""
