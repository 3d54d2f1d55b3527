"""The index of keys and ranges against a plain list."""

from hypothesis import given
from hypothesis import strategies as st

from storage.key_ranges import DEAD_MIN, KeyRanges

keys = st.binary(max_size=2)
ends = st.one_of(st.none(), st.just(b""), st.binary(min_size=1, max_size=2))
changes = st.lists(st.tuples(keys, ends, st.booleans()), max_size=60)


def contains(key: bytes, end: bytes | None, wanted: bytes) -> bool:
    """Whether a range contains a key, said plainly."""
    if end is None:
        return wanted >= key
    return wanted == key if not end else key <= wanted < end


@given(changes, st.lists(keys, min_size=1, max_size=20))
def test_lookups_agree_with_a_list(made: list[tuple[bytes, bytes | None, bool]], wanted: list[bytes]) -> None:
    """After any additions and removals exactly the ranges that contain a key are found."""
    index: KeyRanges[tuple[bytes, bytes | None]] = KeyRanges()
    plain: dict[tuple[bytes, bytes | None], None] = {}
    for key, end, add in made:
        if end and end <= key:
            continue
        if add and (key, end) not in plain:
            index.add(key, end, (key, end))
            plain[key, end] = None
        elif not add and (key, end) in plain:
            index.remove(key, end)
            del plain[key, end]

    assert len(index) == len(plain)
    assert sorted(index.values(), key=repr) == sorted(plain, key=repr)
    for key in wanted:
        found = index.match(key)
        assert sorted(found, key=repr) == sorted((one for one in plain if contains(one[0], one[1], key)), key=repr)


def test_ten_thousand_nested_and_neighbouring_ranges() -> None:
    """Many ranges are found by their own keys alone, before and after most are removed."""
    index: KeyRanges[int] = KeyRanges()
    for number in range(10_000):
        index.add(b"%05d" % number, b"%05d" % (number + 1), number)
    index.add(b"0", b"9", -1)

    assert index.match(b"01234x") == [1234, -1] or index.match(b"01234x") == [-1, 1234]
    for number in range(10_000):
        if number != 1234:
            index.remove(b"%05d" % number, b"%05d" % (number + 1))

    assert sorted(index.match(b"01234x")) == [-1, 1234]
    assert index.match(b"01235") == [-1]
    assert sum(len(tree.ranges) for tree in index._trees) <= 2 + 2 * max(DEAD_MIN, len(index))


def test_removed_range_can_come_back() -> None:
    """A range that was removed and added again is found once, with its new value."""
    index: KeyRanges[str] = KeyRanges()
    index.add(b"a", b"c", "old")
    index.remove(b"a", b"c")
    index.add(b"a", b"c", "new")

    assert index.match(b"b") == ["new"]
    assert index.get(b"a", b"c") == "new"
