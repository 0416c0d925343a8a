"""The worker: one instance that syncs the pool from the provider, cleans, expires, purges, counts."""
