"""Jobs: plain async functions, idempotent, safe beside the API and beside a second worker."""
