"""What one actor counts about itself. Plain numbers; the shell ships them, the gateway prints them."""

from bisect import bisect_left

from protocol.metrics import HISTOGRAM_BOUNDS


class ActorMetrics:
    """Counters only grow within an incarnation; the gateway adds incarnations up so that none ever falls.

    A key is a Prometheus name, with its labels in text form where it has any: `name{To="1f"}`.
    """

    def __init__(self) -> None:
        self.counters: dict[str, float] = {}
        self.gauges: dict[str, float] = {}
        self.sums: dict[str, float] = {}
        self.buckets: dict[str, list[int]] = {}

    def count(self, key: str, amount: float = 1) -> None:
        """Add `amount` (not negative) to a counter."""
        self.counters[key] = self.counters.get(key, 0) + amount

    def gauge(self, key: str, value: float) -> None:
        """Set a gauge."""
        self.gauges[key] = value

    def observe(self, key: str, value: float) -> None:
        """Put one value (seconds) into a histogram whose bounds stand in `protocol.metrics`."""
        bounds = HISTOGRAM_BOUNDS[key.partition("{")[0]]
        counts = self.buckets.get(key)
        if counts is None:
            counts = self.buckets[key] = [0] * (len(bounds) + 1)
        counts[bisect_left(bounds, value)] += 1
        self.sums[key] = self.sums.get(key, 0.0) + value
