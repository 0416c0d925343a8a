"""Pools: the spans that the index is asked for hold exactly the names of the pool."""

from hypothesis import given
from hypothesis import strategies as st

from broker.pool import Pool, Span

NAMES = st.text(alphabet="ab-\U0001f600", min_size=1, max_size=6)
PREFIXES = st.text(alphabet="ab-", max_size=3)


def within(pool: Pool, name: str) -> int:
    """In how many of its spans a name lies."""
    return sum(span is None or span.first <= name <= span.last for span in pool.spans())


@given(PREFIXES, st.lists(PREFIXES.filter(bool), max_size=5), NAMES)
def test_a_name_of_the_pool_is_in_one_span_and_another_in_none_but_at_an_edge(
    prefix: str, drained: list[str], name: str
) -> None:
    pool = Pool.of(prefix, drained)

    if pool.holds(name):
        assert within(pool, name) == 1
    elif name not in pool.without:  # the edge: BETWEEN holds its ends
        assert within(pool, name) == 0


@given(PREFIXES, st.lists(PREFIXES.filter(bool), max_size=5), NAMES)
def test_it_holds_what_begins_with_its_prefix_and_with_nothing_that_is_drained(
    prefix: str, drained: list[str], name: str
) -> None:
    open_names = name.startswith(prefix) and not any(name.startswith(p) for p in drained if p.startswith(prefix))

    assert Pool.of(prefix, drained).holds(name) == open_names


def test_all_names_are_asked_for_without_a_condition() -> None:
    assert Pool().spans() == [None]
    assert Pool("a").spans() == [Span("a", "a\U0010ffff")]


def test_two_wishes_for_the_same_pool_share_what_is_known_of_it() -> None:
    assert Pool.of("a", ["ab", "b", "abc"]) == Pool.of("a", ["abc", "ab"]) == Pool("a", ("ab",))
