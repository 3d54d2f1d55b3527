"""The seeded world: the production actors on virtual time, a faulty network and a faulty disk."""
