"""The peer network between simulated nodes: what becomes of each frame.

Owns delay, loss, duplication, order and cuts of every directed link, control and bulk apart; knows no actor and no
message. Local links are not here: they are lossless (`sim.node`). Invariant: asks only its own random source, once
per decision, so that a change elsewhere does not change the network's luck.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

INFLIGHT_FRAMES_MAX: Final = 256
"""Frames on one directed link; a send high-water mark: what is over it is dropped and counted."""


@dataclass(frozen=True)
class NetworkWeather:
    """How bad the network of one run is while faults last. Probabilities are per frame."""

    delay_us_min: int = 50
    delay_us_mean: int = 200
    loss: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    """Chance that a frame is held back by up to `late_us_max`."""
    late_us_max: int = 0
    reorder: bool = False
    """Whether frames of one link may overtake each other; a real link reorders only over a reconnect."""


CALM: Final = NetworkWeather()
"""What every link is like once the faults have healed."""


@dataclass
class _Link:
    """One directed link of one kind."""

    busy_until_us: int = 0
    inflight: list[int] = field(default_factory=list)


class PeerNetwork:
    """Decides when, and how often, each frame arrives."""

    def __init__(self, rng: random.Random, weather: NetworkWeather) -> None:
        self.weather = weather
        self.met: Counter[str] = Counter()
        self._rng = rng
        self._links: dict[tuple[int, int, bool], _Link] = {}
        self._cuts: Counter[tuple[int, int, bool]] = Counter()

    def cut(self, sender: int, receiver: int, *, bulk: bool) -> None:
        """Lose everything on this directed link until the matching `mend`; cuts nest."""
        self._cuts[sender, receiver, bulk] += 1

    def mend(self, sender: int, receiver: int, *, bulk: bool) -> None:
        """Undo one `cut`."""
        assert self._cuts[sender, receiver, bulk] > 0, f"link {sender}->{receiver} is not cut"
        self._cuts[sender, receiver, bulk] -= 1

    def heal(self) -> None:
        """Mend every cut and make every link good from now on."""
        self._cuts.clear()
        self.weather = CALM

    def is_cut(self, sender: int, receiver: int, *, bulk: bool) -> bool:
        """Whether frames on this directed link are lost now."""
        return self._cuts[sender, receiver, bulk] > 0

    def arrivals(self, now_us: int, sender: int, receiver: int, *, bulk: bool) -> list[int]:
        """The instants at which a frame sent now arrives: none if it is lost, two if it is doubled."""
        rng, weather = self._rng, self.weather
        link = self._links.get((sender, receiver, bulk))
        if link is None:
            link = self._links[sender, receiver, bulk] = _Link()
        if self._cuts[sender, receiver, bulk]:
            self.met["frame_cut"] += 1
            return []
        if weather.loss and rng.random() < weather.loss:
            self.met["fault_loss"] += 1
            return []
        link.inflight = [at for at in link.inflight if at > now_us]
        if len(link.inflight) >= INFLIGHT_FRAMES_MAX:
            self.met["frame_overfull"] += 1
            return []
        arrivals = [self._arrival(now_us, link)]
        if weather.duplicate and rng.random() < weather.duplicate:
            self.met["fault_duplicate"] += 1
            arrivals.append(self._arrival(now_us, link))
        link.inflight += arrivals
        return arrivals

    def _arrival(self, now_us: int, link: _Link) -> int:
        rng, weather = self._rng, self.weather
        at = now_us + weather.delay_us_min + int(rng.expovariate(1.0) * weather.delay_us_mean)
        if weather.late and rng.random() < weather.late:
            self.met["fault_late"] += 1
            at += rng.randrange(1, weather.late_us_max + 1)
        if at >= link.busy_until_us:
            link.busy_until_us = at
        elif weather.reorder:
            self.met["fault_reorder"] += 1
        else:
            at = link.busy_until_us
        return at
