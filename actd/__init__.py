"""What users import: clients for actd's ZeroMQ door."""
