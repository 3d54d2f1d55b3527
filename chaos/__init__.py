"""Chaos on real processes: real clusters, real faults, recorded histories, and checks that turn them into a verdict."""
