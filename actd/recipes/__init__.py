"""Recipes over a client: locks, semaphores, elections, barriers, queues, transactional memory (docs/recipes.md)."""

from actd.recipes.aio import (
    AsyncBarrier,
    AsyncDoubleBarrier,
    AsyncElection,
    AsyncLock,
    AsyncMemory,
    AsyncPriorityQueue,
    AsyncQueue,
    AsyncSemaphore,
    transact_async,
)
from actd.recipes.blocking import (
    Barrier,
    DoubleBarrier,
    Election,
    Lock,
    Memory,
    PriorityQueue,
    Queue,
    Semaphore,
    transact,
)
from actd.recipes.meeting import Taken
from actd.recipes.steps import NotHeld

__all__ = [
    "AsyncBarrier",
    "AsyncDoubleBarrier",
    "AsyncElection",
    "AsyncLock",
    "AsyncMemory",
    "AsyncPriorityQueue",
    "AsyncQueue",
    "AsyncSemaphore",
    "Barrier",
    "DoubleBarrier",
    "Election",
    "Lock",
    "Memory",
    "NotHeld",
    "PriorityQueue",
    "Queue",
    "Semaphore",
    "Taken",
    "transact",
    "transact_async",
]
