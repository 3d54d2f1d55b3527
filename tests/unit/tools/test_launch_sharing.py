"""What the launcher imports is shared by the processes it forks, not copied into each of them."""

import subprocess
import sys

FORKED = """
import os, re
from actors.shell import tune_garbage_collection
from tools.launch import preload

preload()
pid = os.fork()
if pid == 0:
    tune_garbage_collection()
    kib = dict(re.findall(r"(\\w+): +(\\d+) kB", open("/proc/self/smaps_rollup").read()))
    os.write(1, f"{kib['Private_Dirty']} {kib['Shared_Dirty']}".encode())
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_forked_actor_shares_nearly_all_that_was_imported() -> None:
    """A collection in the child that looked at what the parent had loaded would copy two thirds of it."""
    done = subprocess.run([sys.executable, "-c", FORKED], check=True, capture_output=True, text=True)
    private_kib, shared_kib = map(int, done.stdout.split())
    assert shared_kib > 10_000, "there is something to share"
    assert private_kib < shared_kib / 4


def test_nothing_runs_yet_when_the_actors_are_forked() -> None:
    """What is imported before the fork starts no thread and opens no ZeroMQ context: neither survives a fork."""
    script = (
        "import os, zmq, tools.launch; tools.launch.preload(); "
        "print(len(os.listdir('/proc/self/task')), zmq.Context._instance, len(os.listdir('/proc/self/fd')))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    threads, context, descriptors = done.stdout.split()
    assert (threads, context) == ("1", "None")
    assert int(descriptors) <= 4, "standard input, output and error, and the listing itself"


def test_everything_the_actors_run_is_imported_before_the_fork() -> None:
    """An actor that imported its own modules would have a copy of its own, and start later."""
    script = "import sys, tools.launch; tools.launch.preload(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    wanted = {"actors.applier", "actors.raft", "actors.wal", "gateway.core", "storage.posix_disk", "storage.rocks"}
    assert wanted <= set(done.stdout.split())
