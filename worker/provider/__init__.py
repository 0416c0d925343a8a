"""The provider's door: only the worker has one."""
