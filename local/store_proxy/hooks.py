"""Code of a test that runs at an exact point of a call."""

from collections.abc import Awaitable, Callable

from local.store_proxy.answers import Body
from local.store_proxy.call import Call

Hook = Callable[[Body], Awaitable[object]]


class HookHandle:
    """Removes its hook; as a context manager, at the end of the block."""

    def __init__(self, hooks: "list[HookHandle]", op: str, hook: Hook) -> None:
        self._hooks = hooks
        self._op = op
        self._hook = hook
        hooks.append(self)

    def remove(self) -> None:
        if self in self._hooks:
            self._hooks.remove(self)

    def __enter__(self) -> "HookHandle":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.remove()

    async def run(self, call: Call) -> None:
        if call.is_one_of((self._op,)):
            await self._hook(call.body)


class Hooks:
    def __init__(self) -> None:
        self._hooks: list[HookHandle] = []

    def add(self, op: str, hook: Hook) -> HookHandle:
        return HookHandle(self._hooks, op, hook)

    async def run(self, call: Call) -> None:
        for handle in list(self._hooks):
            await handle.run(call)
