"""`make soak`: the real processes under every kind of trouble at once, and the invariants checked meanwhile."""
