"""What clients do: one module per workload, all of one form, and the table of all of them."""

from collections.abc import Callable
from typing import Final

from chaos.workloads.append import AppendWorkload
from chaos.workloads.bank import BankWorkload
from chaos.workloads.base import Workload
from chaos.workloads.leases import LeaseWorkload
from chaos.workloads.membership import SetWorkload
from chaos.workloads.objects import ObjectsWorkload
from chaos.workloads.pages import PagesWorkload
from chaos.workloads.register import RegisterWorkload
from chaos.workloads.ring import RingWorkload
from chaos.workloads.watching import WatchWorkload

WORKLOADS: Final[dict[str, Callable[[], Workload]]] = {
    "register": RegisterWorkload,
    "append": AppendWorkload,
    "set": SetWorkload,
    "ring": RingWorkload,
    "bank": BankWorkload,
    "pages": PagesWorkload,
    "objects": ObjectsWorkload,
    "watch": WatchWorkload,
    "leases": LeaseWorkload,
}
"""Every workload by its name."""
