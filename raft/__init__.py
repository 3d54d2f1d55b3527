"""Consensus without IO: knows no actor, socket, clock, disk or random source of its own."""
