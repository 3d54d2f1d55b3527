"""The in-memory log against a plain list."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.types import LOG_START, Entry, EntryKind, Index, LogPosition, Term
from raft.log import Log


class LogMachine(RuleBasedStateMachine):
    """Does to a `Log` and to a list what raft does to its log."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()
        self.model: list[Entry] = []
        self.mark = LOG_START
        self.durable = 0
        self.term = 1

    @property
    def last(self) -> LogPosition:
        """The model's end."""
        return self.model[-1].position if self.model else self.mark

    @rule(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=5), later=st.integers(0, 2))
    def append(self, sizes: list[int], later: int) -> None:
        """A few entries, perhaps of a later term."""
        self.term += later
        entries = [
            Entry(Term(self.term), Index(self.last.index + 1 + at), EntryKind.COMMANDS, b"x" * size)
            for at, size in enumerate(sizes)
        ]
        self.log.append(entries)
        self.model += entries

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        """A conflict takes the tail."""
        at = data.draw(st.integers(0, len(self.model) - 1))
        first = self.model[at].index
        self.log.truncate(first)
        del self.model[at:]
        self.durable = min(self.durable, first - 1)
        self.term += 1

    @rule(data=st.data())
    def persisted(self, data: st.DataObject) -> None:
        """The disk confirms some position, present or overtaken."""
        index = data.draw(st.integers(0, self.last.index + 2))
        term = data.draw(st.integers(0, self.term))
        known = {entry.index: entry.term for entry in self.model} | {self.mark.index: self.mark.term}
        expected = index > self.durable and known.get(Index(index)) == term
        assert self.log.persisted(LogPosition(Term(term), Index(index))) == expected
        if expected:
            self.durable = index

    @precondition(lambda self: self.durable > self.mark.index)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """The beginning goes, as far as it is durable."""
        index = data.draw(st.integers(self.mark.index + 1, self.durable))
        entry = next(entry for entry in self.model if entry.index == index)
        self.log.cut(entry.position)
        self.model = [entry for entry in self.model if entry.index > index]
        self.mark = entry.position

    @rule(ahead=st.integers(1, 5))
    def restart(self, ahead: int) -> None:
        """A snapshot takes the place of everything."""
        self.term += 1
        self.mark = LogPosition(Term(self.term), Index(self.mark.index + ahead))
        self.log.restart(self.mark)
        self.model = []
        self.durable = self.mark.index

    @precondition(lambda self: self.model)
    @rule(data=st.data(), count=st.integers(1, 6), size=st.integers(0, 60))
    def slice(self, data: st.DataObject, count: int, size: int) -> None:
        """A slice keeps both bounds, but has at least one entry."""
        at = data.draw(st.integers(0, len(self.model) - 1))
        expected: list[Entry] = []
        for entry in self.model[at : at + count]:
            if expected and sum(len(each.data) for each in expected) + len(entry.data) > size:
                break
            expected.append(entry)
        assert list(self.log.slice(self.model[at].index, count, size)) == expected

    @rule(data=st.data())
    def kept_within(self, data: st.DataObject) -> None:
        """What is kept is as much as both bounds allow."""
        last = data.draw(st.integers(self.mark.index, self.last.index))
        count, size = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 60))
        lowest = min(
            index
            for index in range(self.mark.index, last + 1)
            if last - index <= count and sum(len(e.data) for e in self.model if index < e.index <= last) <= size
        )
        assert self.log.kept_within(Index(last), count, size) == lowest

    @rule(index=st.integers(0, 40), term=st.integers(0, 20))
    def last_not_above(self, index: int, term: int) -> None:
        """The place named is the furthest that could match."""
        fitting = [entry.position for entry in self.model if entry.index <= index and entry.term <= term]
        expected = fitting[-1] if fitting else self.mark
        assert self.log.last_not_above(LogPosition(Term(term), Index(index))) == expected

    @invariant()
    def same(self) -> None:
        """Log and list agree on everything that can be asked."""
        self.log.check()
        assert self.log.last == self.last
        assert self.log.durable == self.durable
        assert self.log.bytes_held == sum(len(entry.data) for entry in self.model)
        assert self.log.term_at(Index(self.last.index + 1)) is None
        for entry in self.model:
            assert self.log.term_at(entry.index) == entry.term
        if self.model:
            first, last = self.model[0].index, self.model[-1].index
            assert list(self.log.between(first, last)) == self.model
            assert self.log.bytes_between(first, last) == sum(len(entry.data) for entry in self.model[1:])


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
