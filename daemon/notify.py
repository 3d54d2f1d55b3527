"""The word to systemd that a service is ready (sd_notify), as a unit of `Type=notify` waits for it.

Owns one datagram to a socket that systemd names in the environment. Says nothing where nobody listens.
"""

import os
import socket
from collections.abc import MutableMapping
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


class Notifier:
    """Tells systemd how the service is; takes the variable out of the environment, so that no child tells anything."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop(VARIABLE, "")

    def tell(self, *lines: str) -> bool:
        """Send lines; False if nobody wants to know, or it could not be told."""
        if not self._address.startswith(("/", "@")):
            return False
        # A name that begins with @ is one without a file.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return False
        return True


def notifier() -> Notifier:
    """Return a notifier of this process."""
    return Notifier(os.environ)
