"""The bound below which slots may be filled: exact, and as high as it can be."""

from hypothesis import example, given
from hypothesis import strategies as st

from broker.quota import _below

USED = st.frozensets(st.integers(0, 30), max_size=25)


@given(USED, st.integers(0, 20))
@example(frozenset(range(10, 20)), 10)
def test_with_every_slot_below_it_full_no_more_than_the_limit_would_be_held(
    used: frozenset[int], limit: int
) -> None:
    below = _below(used, limit)

    assert 0 <= below <= limit
    assert below == 0 or below + sum(slot >= below for slot in used) <= limit
    higher = [bound for bound in range(below + 1, limit + 1) if bound + sum(s >= bound for s in used) <= limit]
    assert not higher, "the highest such bound"


def test_where_nothing_lies_beyond_it_is_the_limit() -> None:
    assert _below(frozenset({0, 3, 9}), 10) == 10
    assert _below(frozenset(), 0) == 0
