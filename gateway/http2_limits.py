"""What one HTTP/2 client may ask of us: sizes, counts and rates, each with a name and a unit.

Owns the defences against the known HTTP/2 floods: rapid reset, CONTINUATION, PING, SETTINGS, PRIORITY and empty-frame
floods, header lists that expand, clients that open a window of zero and wait. Knows no frames.
Invariant: a client that does useful work earns the control frames it needs for it; one that does none runs dry.
"""

from typing import Final, NamedTuple


class Http2Limits(NamedTuple):
    """The limits of one connection."""

    concurrent_streams_max: int = 10_000
    header_list_bytes_max: int = 32 * 1024
    """Decoded, counted as RFC 9113 counts; larger is answered with 431."""
    header_block_bytes_max: int = 64 * 1024
    """As sent, over HEADERS and all its CONTINUATION frames."""
    continuation_frames_max: int = 16
    stream_window_bytes: int = 1024 * 1024
    """What a client may send on one stream before we give it more."""
    connection_window_bytes: int = 16 * 1024 * 1024
    control_burst_frames: int = 10_000
    """Frames that ask for work and carry none (PING, SETTINGS, PRIORITY, empty DATA ...) in one burst."""
    control_frames_per_s: int = 500
    control_frames_per_request: int = 16
    """What each request earns: clients acknowledge, probe bandwidth and open windows as they work."""
    sent_bytes_per_control_frame: int = 2048
    """What answers earn: clients open windows as they read."""
    reset_burst_streams: int = 20_000
    """Requests a client may cancel, or have refused, in one burst."""
    reset_streams_per_s: int = 1_000
    stall_ms_max: int = 60_000
    """How long an answer may wait for a window the client does not open; then its stream is reset."""
    unsent_bytes_max: int = 192 * 1024 * 1024
    """Answers waiting for one client to read; over it the connection ends."""
    output_bytes_per_turn: int = 512 * 1024
    """Answers moved from the queues to the socket in one go, so that one client cannot hold the loop."""
    preface_ms_max: int = 10_000
    """How long a client may take for its preface, its SETTINGS and each header block."""


DEFAULT_LIMITS: Final = Http2Limits()


class Budget:
    """A token bucket that is also filled by useful work."""

    __slots__ = ("_burst", "_earned", "_now", "_per_s", "_tokens")

    def __init__(self, burst: int, per_s: int) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = float(burst)
        self._now = 0
        self._earned = 0

    def spend(self, now: int, earned: int = 0, amount: int = 1) -> bool:
        """Take tokens; False if there are too few.

        Args:
            now: milliseconds.
            earned: tokens earned by work since the connection began.
            amount: tokens to take.
        """
        elapsed = max(0, now - self._now) if self._now else 0
        gained = elapsed * self._per_s / 1000 + (earned - self._earned)
        self._now = now
        self._earned = earned
        self._tokens = min(float(self._burst), self._tokens + gained) - amount
        return self._tokens >= 0
