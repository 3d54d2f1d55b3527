"""The first thing a newcomer runs: a cluster, a put, a get, and then it is theirs until Ctrl-C.

`python -m tools.demo`. Starts `tools.launch` and uses the client library, and etcdctl where it is installed.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from actd import ActdError, Client
from protocol.config import load_config

START_TIMEOUT_S = 30.0


def main() -> int:
    """Run the demonstration; return the exit status."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("cluster.toml")
    config = load_config(file)
    launcher = subprocess.Popen([sys.executable, "-m", "tools.launch", str(file), "--log-level", "warning"])
    signal.signal(signal.SIGTERM, lambda _number, _frame: launcher.terminate())
    try:
        with Client([f"tcp://{node.zmq}" for node in config.nodes], timeout_s=START_TIMEOUT_S) as client:
            put = client.put("greeting", "Hello from actd")
            pair = client.get("greeting")
            assert pair is not None, "what was put is there"
            print(f"\nput greeting -> revision {put.revision}")
            print(f"get greeting -> {pair.text!r}, revision {pair.mod_revision}")
    except ActdError as error:
        launcher.terminate()
        launcher.wait()
        print(f"the cluster did not answer: {error}", file=sys.stderr)
        return 1
    if shutil.which("etcdctl"):
        command = ["etcdctl", "--endpoints", config.nodes[-1].client, "get", "greeting"]
        print(f"$ {' '.join(command)}", flush=True)
        subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, check=False)
    print("\nThe cluster keeps running; Ctrl-C stops it.", flush=True)
    try:
        return launcher.wait()
    except KeyboardInterrupt:
        launcher.send_signal(signal.SIGINT)
        return launcher.wait()


if __name__ == "__main__":
    sys.exit(main())
