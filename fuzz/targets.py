"""The targets by name."""

from typing import Final

from fuzz.config import CONFIG
from fuzz.http2 import HTTP2
from fuzz.json_gateway import JSON
from fuzz.protobuf import PROTOBUF
from fuzz.target import Target
from fuzz.wal_reader import WAL
from fuzz.zmq_door import ZMQ

TARGETS: Final[dict[str, Target]] = {target.name: target for target in (HTTP2, PROTOBUF, JSON, ZMQ, WAL, CONFIG)}
