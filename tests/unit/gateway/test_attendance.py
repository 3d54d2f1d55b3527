"""When raft is told that clients of this node would notice delays."""

from actors.effects import Send
from gateway.attendance import Attendance
from protocol.local import ClientsAttended
from protocol.types import Millis

TOLD = [Send("raft", ClientsAttended())]


def test_nothing_is_said_of_a_node_without_clients() -> None:
    """No watcher and no read: no word, and no wish to be woken."""
    attendance = Attendance(1000)
    assert attendance.end_turn(Millis(5), watched=False, read=False) == []
    assert attendance.deadline is None


def test_reads_are_told_of_twice_within_a_timeout_at_most() -> None:
    """Thousands of reads are a few words, and none is owed when they end."""
    attendance = Attendance(1000)
    told = [now for now in range(0, 2000, 10) if attendance.end_turn(Millis(now), watched=False, read=True)]
    assert told == [0, 500, 1000, 1500]
    assert attendance.deadline is None


def test_watchers_are_told_of_again_and_again_without_any_other_work() -> None:
    """The deadline brings the next word before the last runs out, until the watchers are gone."""
    attendance = Attendance(1000)
    now = Millis(0)
    for _ in range(5):
        assert attendance.end_turn(now, watched=True, read=False) == TOLD
        assert attendance.end_turn(now, watched=True, read=True) == []
        assert attendance.deadline is not None
        assert now < attendance.deadline < now + 1000
        now = attendance.deadline
    assert attendance.end_turn(now, watched=False, read=False) == []
    assert attendance.deadline is None


def test_watchers_that_come_soon_after_a_read_are_not_forgotten() -> None:
    """A word said for a read runs out like any other."""
    attendance = Attendance(1000)
    assert attendance.end_turn(Millis(0), watched=False, read=True) == TOLD
    assert attendance.end_turn(Millis(100), watched=True, read=False) == []
    assert attendance.deadline == 500
