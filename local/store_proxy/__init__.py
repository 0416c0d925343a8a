"""The store proxy: an HTTP proxy that makes a local DynamoDB engine behave as badly as the real one can."""

from local.store_proxy.counts import CallRecord, Counts
from local.store_proxy.faults import Faults
from local.store_proxy.hooks import Hook, HookHandle
from local.store_proxy.server import StoreProxy

__all__ = ["CallRecord", "Counts", "Faults", "Hook", "HookHandle", "StoreProxy"]
