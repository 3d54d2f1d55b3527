"""Pings an HTTP/2 port every few milliseconds from a process of its own: `python h2_pinger.py HOST:PORT`.

For each line on stdin it prints the slowest answer since the last one, in milliseconds, and how many there were.
"""

import os
import select
import socket
import struct
import sys
import time

from gateway import http2_frames as wire

PAUSE_S = 0.003


def main() -> None:
    """Ping until stdin ends."""
    host, port = sys.argv[1].rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(wire.PREFACE + wire.frame_head(0, wire.SETTINGS, 0, 0))
    held = b""
    slowest_s, count, number = 0.0, 0, 0
    while True:
        number += 1
        sent_at = time.perf_counter()
        token = struct.pack(">Q", number)
        connection.sendall(wire.ping(token, ack=False))
        answer = wire.ping(token, ack=True)
        while answer not in held:
            piece = connection.recv(65_536)
            assert piece, "the connection was closed"
            held += piece
        held = held.partition(answer)[2]
        slowest_s = max(slowest_s, time.perf_counter() - sent_at)
        count += 1
        if select.select([0], [], [], PAUSE_S)[0]:
            if not os.read(0, 1):
                return
            print(f"{slowest_s * 1000:.1f} {count}", flush=True)
            slowest_s, count = 0.0, 0


if __name__ == "__main__":
    main()
