"""Judges histories of clients: what a store answered, held against what etcd's KV model allows."""
