"""Routes: parse, one call, shape the answer."""
