"""Durable things behind narrow ports: the disk and the WAL on it, the engine and the MVCC store in it."""
