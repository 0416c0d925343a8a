"""C1: a cursor is good for one list of one tenant, unchanged."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cursors import MAX_CHARS, Cursors
from broker.errors import InvalidCursor
from broker.store.table import sandbox_key, status_partition, status_sort_key
from tests.builders import a_sandbox

SCOPE = ("acme", "available", "")
POSITION = {"p": 3, "k": {"pk": {"S": "SBX#acme#2009001"}, "sk": {"S": "-"}}, "n": 4}
KEY = st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=4)
TEXTS = st.text(max_size=20)


@pytest.fixture
def cursors() -> Cursors:
    return Cursors("the-admin-token-of-this-broker")


def refused(cursors: Cursors, cursor: str, scope: tuple[str, ...] = SCOPE) -> bool:
    try:
        cursors.decode(cursor, scope=scope)
    except InvalidCursor:
        return True
    return False


@given(st.integers(0, 10_000), KEY, TEXTS, TEXTS, TEXTS)
def test_a_position_comes_back_as_it_was(p: int, k: dict[str, str], tenant: str, status: str, track: str) -> None:
    cursors = Cursors("secret")
    position = {"p": p, "k": k, "n": 4}
    cursor = cursors.encode(position, scope=(tenant, status, track))
    assert cursors.decode(cursor, scope=(tenant, status, track)) == position


def test_a_cursor_may_stand_in_a_query_as_it_is(cursors: Cursors) -> None:
    cursor = cursors.encode(POSITION, scope=SCOPE)
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_the_longest_position_there_is_fits_the_bound_of_the_query(cursors: Cursors) -> None:
    """Otherwise a list would give out cursors that it refuses."""
    sandbox = a_sandbox(tenant="t" * 64, id="i" * 128, name="n" * 200)
    start = sandbox_key(sandbox.tenant, sandbox.id) | {
        "gsi1pk": {"S": status_partition(sandbox.tenant, sandbox.state, 63)},
        "gsi1sk": {"S": status_sort_key(sandbox)},
    }
    assert len(cursors.encode({"p": 447, "k": start, "n": 64}, scope=SCOPE)) <= MAX_CHARS


@given(st.data())
def test_one_changed_bit_anywhere_is_refused(data: st.DataObject) -> None:
    cursors = Cursors("secret")
    cursor = cursors.encode(POSITION, scope=SCOPE)
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    assert refused(cursors, base64.urlsafe_b64encode(raw).decode().rstrip("="))


def test_every_truncation_is_refused(cursors: Cursors) -> None:
    cursor = cursors.encode(POSITION, scope=SCOPE)
    assert all(refused(cursors, cursor[:length]) for length in range(len(cursor) - 1))


@given(st.text(max_size=200))
def test_made_up_text_is_refused_and_nothing_else_happens(text: str) -> None:
    assert refused(Cursors("secret"), text)


@pytest.mark.parametrize(
    "scope",
    [
        ("umbrella", "available", ""),
        ("acme", "allocated", ""),
        ("acme", "available", "lab"),
        ("acme", "", "available"),
        ("acmeavailable", "", ""),
        ("acme", "available"),
    ],
)
def test_another_scope_is_refused(cursors: Cursors, scope: tuple[str, ...]) -> None:
    assert refused(cursors, cursors.encode(POSITION, scope=SCOPE), scope)


@given(st.tuples(TEXTS, TEXTS, TEXTS), st.tuples(TEXTS, TEXTS, TEXTS))
def test_no_scope_passes_for_another(mine: tuple[str, ...], other: tuple[str, ...]) -> None:
    cursors = Cursors("secret")
    assert refused(cursors, cursors.encode(POSITION, scope=mine), other) == (mine != other)


def test_a_cursor_of_another_secret_is_refused(cursors: Cursors) -> None:
    assert refused(cursors, Cursors("another").encode(POSITION, scope=SCOPE))


def test_the_key_is_not_the_secret_itself(cursors: Cursors) -> None:
    assert b"the-admin-token" not in vars(cursors)["_key"]
