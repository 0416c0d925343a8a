"""B3: keys are recognised from memory; what changes is known within 10 s; the store in trouble is told as that."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app import key_ring
from app.auth import Credential
from app.key_desk import KeyDesk, Made
from app.key_ring import REFRESH_S, TRUST_S, UNKNOWN_S, USED_EVERY_S, WAIT_S, KeyRing, Refusal
from broker.errors import NotReady, StoreThrottled, StoreUnavailable
from broker.key import Peppers, Token
from broker.role import Role
from broker.wiring import Broker
from local.store_proxy import StoreProxy
from tests.api.service import PEPPER
from tests.builders import NOW, TEST_CAUSE
from tests.conftest import a_broker
from tests.store.conftest import Clock

PEPPERS = Peppers([PEPPER])
DAY_S = 24 * 3600


@pytest.fixture
def clock() -> Clock:
    """The wall clock."""
    return Clock(NOW)


@pytest.fixture
def ticks() -> Clock:
    """The monotonic clock."""
    return Clock(1000.0)


@pytest.fixture
async def core(proxy: StoreProxy, table_name: str, clock: Clock) -> AsyncIterator[Broker]:
    async with a_broker(proxy.url, table_name, clock=clock) as broker:
        await broker.tenants.ensure("acme", shards=1, now=NOW)
        yield broker


@pytest.fixture
def desk(core: Broker, clock: Clock) -> KeyDesk:
    """Of another process: the rings below hear nothing of what it does."""
    cursors: Any = None
    return KeyDesk(core.keys, cursors, PEPPERS, changed=lambda _: None, default_tenant="acme", clock=clock)


@pytest.fixture
async def ring(core: Broker, clock: Clock, ticks: Clock) -> AsyncIterator[KeyRing]:
    opened = KeyRing(PEPPERS, tenant="acme", clock=clock, monotonic=ticks)
    opened.open(core.keys)
    yield opened
    await opened.close()


async def a_key(desk: KeyDesk, role: Role = Role.TRACK, *, lasts_s: int | None = None) -> Made:
    return await desk.create("acme", role, "a test's", lasts_s=lasts_s, cause=TEST_CAUSE)


def token(text: str) -> Token:
    parsed = Token.parse(text.encode())
    assert parsed is not None
    return parsed


async def known(ring: KeyRing, made: Made) -> Token:
    """The key's token, of which the ring has just heard."""
    presented = token(made.token)
    assert isinstance(await ring.ask(presented), Credential)
    await settled(ring)
    return presented


async def settled(ring: KeyRing) -> None:
    """Whatever runs in the background has ended."""
    while running := [*ring._reads.values(), *ring._notes]:
        await asyncio.wait(running)
        await asyncio.sleep(0)


def reads(proxy: StoreProxy) -> int:
    return proxy.counts.calls["GetItem:consistent"]


async def test_a_key_that_was_seen_costs_no_read_and_no_write(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, ticks: Clock
) -> None:
    made = await a_key(desk)
    presented = await known(ring, made)
    proxy.counts.reset()

    for ticks.now in (1000.0, 1001.0, 1000.0 + REFRESH_S - 0.01):
        for _ in range(100):
            assert ring.look(presented) == Credential(f"key:{made.key.id}", "acme", Role.TRACK)
    await settled(ring)

    assert sum(proxy.counts.calls.values()) == 0


async def test_past_its_freshness_it_is_confirmed_once_beside_the_requests(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, ticks: Clock
) -> None:
    presented = await known(ring, await a_key(desk))
    proxy.counts.reset()
    ticks.now += REFRESH_S

    answers = {ring.look(presented) for _ in range(100)}
    await settled(ring)

    assert {type(answer) for answer in answers} == {Credential}
    assert reads(proxy) == 1
    ticks.now += REFRESH_S - 0.01
    ring.look(presented)
    await settled(ring)
    assert reads(proxy) == 1, "it counts from the read that confirmed it"


@pytest.mark.parametrize("idle_s", [0.0, REFRESH_S, WAIT_S, TRUST_S, 3600.0])
async def test_a_revocation_elsewhere_holds_within_ten_seconds_whoever_asked_in_between(
    ring: KeyRing, desk: KeyDesk, ticks: Clock, idle_s: float
) -> None:
    made = await a_key(desk)
    presented = await known(ring, made)
    ticks.now += idle_s
    await desk.revoke("acme", made.key.id, cause=TEST_CAUSE)

    refused_after_s: float | None = None
    for second in range(0, 21):
        answer = ring.look(presented)
        if answer is None:
            answer = await ring.ask(presented)
        await settled(ring)
        if answer is Refusal.REVOKED and refused_after_s is None:
            refused_after_s = second / 2
        ticks.now += 0.5

    assert refused_after_s is not None
    assert refused_after_s <= TRUST_S
    assert ring.look(presented) is Refusal.REVOKED


async def test_nothing_older_than_it_may_be_is_believed_without_a_read(
    ring: KeyRing, desk: KeyDesk, ticks: Clock
) -> None:
    presented = await known(ring, await a_key(desk))
    ticks.now += WAIT_S - 0.01
    assert isinstance(ring.look(presented), Credential)
    await settled(ring)
    ticks.now += WAIT_S
    assert ring.look(presented) is None


async def test_an_expiry_holds_at_the_second_it_is_due_without_a_read(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, clock: Clock
) -> None:
    presented = await known(ring, await a_key(desk, lasts_s=DAY_S))
    proxy.counts.reset()
    clock.now = NOW + DAY_S - 1
    assert isinstance(ring.look(presented), Credential)
    await settled(ring)
    proxy.counts.reset()

    clock.now = NOW + DAY_S

    assert ring.look(presented) is Refusal.EXPIRED
    assert sum(proxy.counts.calls.values()) == 0


async def test_while_the_store_is_down_a_known_key_is_good_for_ten_seconds_and_then_it_is_503(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, ticks: Clock
) -> None:
    presented = await known(ring, await a_key(desk))
    proxy.faults.down = True

    for ticks.now in (1000.0, 1000.0 + REFRESH_S, 1000.0 + WAIT_S - 0.01):
        assert isinstance(ring.look(presented), Credential)
        await settled(ring)
    ticks.now = 1000.0 + TRUST_S - 0.01
    assert ring.look(presented) is None
    assert isinstance(await ring.ask(presented), Credential)
    ticks.now = 1000.0 + TRUST_S
    assert ring.look(presented) is None
    with pytest.raises(StoreUnavailable):
        await ring.ask(presented)

    proxy.faults.down = False
    ticks.now += 1
    assert isinstance(await ring.ask(presented), Credential)


@pytest.mark.parametrize("faults", [{"down": True}, {"throttle_rate": 1}, {"internal_error_rate": 1}])
async def test_trouble_of_the_store_is_never_a_refusal(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, faults: dict[str, Any]
) -> None:
    made = await a_key(desk)
    proxy.faults.change(faults)
    with pytest.raises((StoreUnavailable, StoreThrottled)):
        await ring.ask(token(made.token))
    proxy.faults.change(dict.fromkeys(faults, 0) | ({"down": False} if "down" in faults else {}))
    assert isinstance(await ring.ask(token(made.token)), Credential), "and it was not remembered as unknown"


async def test_a_store_in_trouble_is_not_asked_by_every_request(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, ticks: Clock
) -> None:
    presented = await known(ring, await a_key(desk))
    proxy.faults.down = True
    ticks.now += WAIT_S
    proxy.counts.reset()

    for _ in range(50):
        assert isinstance(await ring.ask(presented), Credential)

    assert reads(proxy) <= 2, "one try, and its repeat over a new connection"


async def test_many_who_come_with_a_new_key_at_once_cost_one_read(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy
) -> None:
    presented = token((await a_key(desk)).token)
    proxy.counts.reset()

    answers = await asyncio.gather(*(ring.ask(presented) for _ in range(200)))

    assert {type(answer) for answer in answers} == {Credential}
    assert reads(proxy) == 1


async def test_an_unknown_id_is_asked_for_once_and_forgotten_in_a_few_seconds(
    ring: KeyRing, proxy: StoreProxy, ticks: Clock
) -> None:
    presented = token(f"sbk_{'a' * 12}_{'A' * 43}")
    assert ring.look(presented) is None
    assert ring.is_stranger(presented)
    assert await ring.ask(presented) is Refusal.UNKNOWN
    proxy.counts.reset()
    for _ in range(50):
        assert ring.look(presented) is Refusal.UNKNOWN
    assert reads(proxy) == 0
    ticks.now += UNKNOWN_S
    assert ring.look(presented) is None


async def test_a_wrong_secret_of_a_known_key_never_costs_a_read_however_old_the_record_is(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, ticks: Clock
) -> None:
    made = await a_key(desk)
    await known(ring, made)
    forged = token(made.token[:-43] + "A" * 43)
    proxy.counts.reset()
    for ticks.now in (1000.0, 1000.0 + REFRESH_S, 1000.0 + 3600):
        assert ring.look(forged) is Refusal.WRONG_SECRET
    await settled(ring)
    assert reads(proxy) == 0


async def test_what_is_remembered_is_bounded_and_strangers_push_no_key_out(
    ring: KeyRing, desk: KeyDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ring, "MAX_UNKNOWN", 5)
    monkeypatch.setattr(key_ring, "MAX_KNOWN", 2)
    first, *others = [await a_key(desk) for _ in range(3)]
    presented = await known(ring, first)
    for number in range(20):
        await ring.ask(token(f"sbk_{number:012d}_{'A' * 43}"))
    await settled(ring)
    assert len(ring._unknown) == 5
    assert isinstance(ring.look(presented), Credential)
    for made in others:
        await known(ring, made)
    assert len(ring._known) == 2


async def test_its_use_is_noted_once_a_minute_and_never_in_the_way(
    ring: KeyRing, desk: KeyDesk, proxy: StoreProxy, clock: Clock, core: Broker
) -> None:
    made = await a_key(desk)
    presented = await known(ring, made)
    stored = await core.keys.get(made.key.id, now=clock())
    assert stored is not None
    assert (stored.last_used_at, stored.version) == (NOW, 1)
    proxy.counts.reset()

    clock.now = NOW + USED_EVERY_S - 1
    ring.look(presented)
    await settled(ring)
    assert proxy.counts.calls["UpdateItem"] == 0
    clock.now = NOW + USED_EVERY_S
    for _ in range(10):
        ring.look(presented)
    await settled(ring)
    assert proxy.counts.calls["UpdateItem"] == 1

    proxy.faults.down = True
    clock.now += USED_EVERY_S
    assert isinstance(ring.look(presented), Credential)
    await settled(ring)


async def test_what_is_changed_here_holds_here_at_once(core: Broker, ring: KeyRing, clock: Clock) -> None:
    cursors: Any = None
    here = KeyDesk(core.keys, cursors, PEPPERS, changed=ring.forget, default_tenant="acme", clock=clock)
    made = await a_key(here)
    presented = await known(ring, made)

    await here.revoke("acme", made.key.id, cause=TEST_CAUSE)

    assert ring.look(presented) is None
    assert await ring.ask(presented) is Refusal.REVOKED


async def test_a_read_that_began_before_a_change_here_is_not_remembered(
    core: Broker, ring: KeyRing, desk: KeyDesk, proxy: StoreProxy
) -> None:
    made = await a_key(desk)
    presented = token(made.token)

    async def meanwhile(_: Any) -> None:
        ring.forget(made.key.id)

    with proxy.before("GetItem:consistent", meanwhile):
        assert isinstance(await ring.ask(presented), Credential), "it was good when it was read"
    await settled(ring)
    assert ring.look(presented) is None


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("tenant", ["acme", "north"])
async def test_operators_and_admins_of_the_default_tenant_run_the_platform(
    core: Broker, ring: KeyRing, desk: KeyDesk, role: Role, tenant: str
) -> None:
    await core.tenants.ensure("north", shards=1, now=NOW)
    made = await desk.create(tenant, role, "x", lasts_s=None, cause=TEST_CAUSE)
    expected = tenant == "acme" and role in (Role.OPERATOR, Role.ADMIN)
    assert await ring.ask(token(made.token)) == Credential(f"key:{made.key.id}", tenant, role, expected)


async def test_an_old_pepper_verifies_what_it_made_until_it_is_taken_away(
    core: Broker, desk: KeyDesk, clock: Clock, ticks: Clock
) -> None:
    made = await a_key(desk)
    new = "a-new-pepper-9c17e60f4b28d533f8a1"
    for peppers, expected in (([new, PEPPER], Credential), ([new], Refusal)):
        ring = KeyRing(Peppers(peppers), tenant="acme", clock=clock, monotonic=ticks)
        ring.open(core.keys)
        assert type(await ring.ask(token(made.token))) is expected
        await settled(ring)


async def test_a_process_that_boots_knows_nobody_and_says_so(clock: Clock, ticks: Clock) -> None:
    ring = KeyRing(PEPPERS, tenant="acme", clock=clock, monotonic=ticks)
    with pytest.raises(NotReady):
        await ring.ask(token(f"sbk_{'a' * 12}_{'A' * 43}"))


async def test_without_a_pepper_no_key_is_recognised_and_none_is_read(
    core: Broker, desk: KeyDesk, clock: Clock, ticks: Clock
) -> None:
    made = await a_key(desk)
    ring = KeyRing(None, tenant="acme", clock=clock, monotonic=ticks)
    ring.open(core.keys)
    assert ring.look(token(made.token)) is Refusal.UNKNOWN
