"""The broker's core: domain, store, allocation. No web framework, no scheduler."""
