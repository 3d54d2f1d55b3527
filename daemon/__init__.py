"""A node started by etcd's flags: their table, how they are read, what they mean here, and the process they start."""
