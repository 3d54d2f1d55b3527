"""Leases through any number of leaders: no promise is cut short, and none is kept much longer."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from lease_model import LeaseModel

from actors.lessor import Lessor


@pytest.mark.slow
def test_promises_are_kept_through_any_number_of_leaders() -> None:
    """Whatever happens in whatever order."""
    run_state_machine_as_test(
        LeaseModel,
        settings=settings(
            max_examples=200,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )


def test_the_model_notices_a_lessor_that_forgets_to_take_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: the keep-alive is answered although less is recorded; the next leader then cuts it short."""
    honest = Lessor.keep_alive

    def hasty(self: Any, lease: Any, reader: Any, confirmed_at: Any, now: Any) -> int | None:
        timer = self._timer(lease, reader, now)
        if timer is not None:
            timer.recorded = False
        return honest(self, lease, reader, confirmed_at, now)

    monkeypatch.setattr(Lessor, "keep_alive", hasty)
    machine = LeaseModel()
    machine.grant(1, 40)
    machine.time_passes(18_000)
    machine.time_passes(20_000)
    machine.keep_alive(1, patient=True)
    machine.elect(0, upkeep_survives=False)
    with pytest.raises(AssertionError, match="cut short"):
        machine.time_passes(20_000)
