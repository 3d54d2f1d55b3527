"""The doors clients come through and the core that batches, answers and forgets them."""
