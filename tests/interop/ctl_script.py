"""Every subcommand of Debian's etcdctl (API v3) and every output format: one script for actd and for etcd.

Owns the script and how what is printed is brought to what both must agree on. What the two may differ in is named here
and nowhere else: ids, ports, times, sizes, versions, hashes.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError
from grpc_doors import Door

from protocol.wire import rpc_pb2 as rpc

ETCDCTL: Final = shutil.which("etcdctl")
FORMATS: Final = ("simple", "json", "fields", "table", "protobuf")
LEASE_IDS: Final = (0x7000000000000001, 0x7000000000000002)
TXN: Final = (
    'value("t/a") = "1"\nmod("t/b") > "0"\nlease("t/a") = "0"\n\nput t/c yes\nget t/ --prefix\ndel t/b\n\nget t/\n\n'
)


class Line(NamedTuple):
    """One command. `{lease}`, `{other}`, `{member}`, `{learner}` and `{directory}` stand for what each store has."""

    words: str
    stdin: str = ""
    once: bool = False
    """Only in the simple format: it has no other, or would do its work again each time."""


PLAIN: Final = (
    Line("put k value"),
    Line("put k more --prev-kv"),
    Line("put k --ignore-value"),
    Line("put leased x --lease={lease}"),
    Line("put leased y --ignore-lease"),
    Line("put none --ignore-value"),
    Line("put k", stdin="from stdin"),
    Line("get k"),
    Line("get k --hex"),
    Line("get none"),
    Line("get k l --limit=2 --order=DESCEND --sort-by=MODIFY"),
    Line("get k --prefix --keys-only"),
    Line("get k --print-value-only"),
    Line("get k --from-key --consistency=s"),
    Line("get k --rev=2"),
    Line("get k --rev=99999"),
    Line("put t/a 1", once=True),
    Line("put t/b 2", once=True),
    Line("txn", stdin=TXN),
    Line("txn", stdin="\nput t/a 1\nput t/a 2\n\n\n"),
    Line("lease list"),
    Line("lease timetolive {lease}"),
    Line("lease timetolive {lease} --keys"),
    Line("lease timetolive 1234"),
    Line("lease keep-alive --once {lease}"),
    Line("lease keep-alive --once 1234"),
    Line("lease grant 100", once=True),
    Line("lease revoke {other}", once=True),
    Line("lease revoke {other}"),
    Line("del k --prev-kv"),
    Line("del none"),
    Line("del t/ --prefix"),
    Line("compaction 3", once=True),
    Line("compaction 3"),
    Line("compaction 99999"),
    Line("get k --rev=2"),
    Line("endpoint health"),
    Line("endpoint status"),
    Line("endpoint hashkv"),
    Line("alarm list"),
    Line("alarm disarm"),
    Line("member list"),
    Line("member add learner --learner --peer-urls=http://127.0.0.1:9", once=True),
    Line("member add learner --learner --peer-urls=http://127.0.0.1:9"),
    Line("member add another --learner --peer-urls=http://127.0.0.1:10"),
    Line("member list"),
    Line("member promote {learner}"),
    Line("member update {learner} --peer-urls=http://127.0.0.1:11"),
    Line("member remove {learner}", once=True),
    Line("member remove {learner}"),
    Line("member update 1234 --peer-urls=http://127.0.0.1:12"),
    Line("move-leader 1234"),
    Line("version"),
)
AUTH: Final = (
    Line("auth disable", once=True),
    Line("auth enable"),
    Line("user add root:secret", once=True),
    Line("user add root:secret"),
    Line("user add guest --no-password", once=True),
    Line("user add user:pass", once=True),
    Line("user list"),
    Line("role add reader", once=True),
    Line("role add reader"),
    Line("role add root", once=True),
    Line("role list"),
    Line("role grant-permission reader read k"),
    Line("role grant-permission reader readwrite p/ --prefix"),
    Line("role grant-permission reader write from --from-key"),
    Line("role get reader"),
    Line("role get nobody"),
    Line("user grant-role user reader"),
    Line("user grant-role user nobody"),
    Line("user grant-role root root"),
    Line("user get user"),
    Line("user get user --detail"),
    Line("user get nobody"),
    Line("user passwd user", stdin="pass2\npass2\n", once=True),
    Line("role revoke-permission reader k", once=True),
    Line("role revoke-permission reader k"),
    Line("auth enable", once=True),
    Line("get k"),
    Line("get k --user=user:wrong"),
    Line("get p/x --user=user:pass"),
    Line("put p/x 1 --user=user:pass"),
    Line("put q 1 --user=user:pass"),
    Line("user list --user=user:pass"),
    Line("user revoke-role user reader --user=root:secret", once=True),
    Line("user revoke-role user reader --user=root:secret"),
    Line("get p/x --user=user:pass"),
    Line("role delete reader --user=root:secret", once=True),
    Line("role delete reader --user=root:secret"),
    Line("user delete user --user=root:secret", once=True),
    Line("user delete user --user=root:secret"),
    Line("user delete root --user=root:secret"),
    Line("auth disable --user=root:secret", once=True),
    Line("get k"),
)
SNAPSHOTS: Final = (
    Line("snapshot save {directory}/snap", once=True),
    Line("snapshot status {directory}/snap"),
    Line("snapshot status {directory}/nothing"),
    Line("snapshot restore {directory}/snap --data-dir={directory}/restored", once=True),
    Line("snapshot restore {directory}/snap --data-dir={directory}/restored", once=True),
)
ELSEWHERE: Final = {
    "watch": "test_etcdctl_watch.py",
    "lock": "test_services_against_etcd.py",
    "elect": "test_services_against_etcd.py",
    "make-mirror": "test_etcdctl_everything.py, as a process of its own",
    "check perf": "a minute of load: by hand",
    "check datascale": "loads until the server's memory shows: by hand",
    "migrate": "reads a v2 store on disk, talks to no server",
    "defrag": "not served yet",
    "help": "talks to no server",
    "completion": "talks to no server",
}
"""Subcommands that are not lines of the script, and where they are."""


EXPLAINED: Final[dict[tuple[str, str], str]] = {
    ("alarm list", "json"): "`alarm list` in json, fields and protobuf",
    ("alarm list", "fields"): "`alarm list` in json, fields and protobuf",
    ("alarm list", "protobuf"): "`alarm list` in json, fields and protobuf",
    ("member update {learner} --peer-urls=http://127.0.0.1:11", "json"): "`member update` of a learner",
    ("member update {learner} --peer-urls=http://127.0.0.1:11", "protobuf"): "`member update` of a learner",
    ("snapshot status {directory}/snap", "simple"): "`snapshot status`: total keys",
    ("snapshot status {directory}/snap", "table"): "`snapshot status`: total keys",
}
"""The lines that differ, and the row of docs/compatibility.md that says why."""


class Said(NamedTuple):
    """What a command came to."""

    status: int
    output: Any
    errors: list[str]


class Player:
    """Plays lines at one store of a single member."""

    def __init__(self, address: str, directory: Path) -> None:
        self.address = address
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        door = Door(address)
        for lease in LEASE_IDS:
            door.answer(rpc.LeaseGrantRequest(ID=lease, TTL=100_000))
        (member,) = door.answer(rpc.MemberListRequest())[1].members
        self._member, self._name = member.ID, member.name
        self._door = door

    def close(self) -> None:
        """End the connection."""
        self._door.channel.close()

    def _learner(self) -> str:
        members = self._door.answer(rpc.MemberListRequest())[1].members
        found = [member.ID for member in members if self._member != member.ID]
        return f"{found[0]:x}" if found else "1234"

    def run(self, words: str, stdin: str = "") -> "subprocess.CompletedProcess[bytes]":
        """Run one command."""
        assert ETCDCTL is not None, "the tests saw to that"
        names = {
            "lease": f"{LEASE_IDS[0]:x}",
            "other": f"{LEASE_IDS[1]:x}",
            "member": f"{self._member:x}",
            "directory": str(self._directory),
        }
        if "{learner}" in words:
            names["learner"] = self._learner()
        command = [ETCDCTL, f"--endpoints={self.address}", *words.format(**names).split()]
        environment = {"PATH": os.environ["PATH"], "ETCDCTL_API": "3"}
        return subprocess.run(
            command, input=stdin.encode(), capture_output=True, timeout=60, check=False, env=environment
        )

    def say(self, line: Line, form: str) -> Said:
        """Run a line in a format; return what both stores must agree on."""
        words = line.words if form == "simple" else f"{line.words} -w {form}"
        done = self.run(words, line.stdin)
        output: Any = (
            _message(done.stdout, line.words) if form == "protobuf" else self._plain(done.stdout.decode(), line.words)
        )
        errors = [
            self._plain(text, line.words)
            for text in done.stderr.decode().splitlines()
            if text.lstrip().startswith(("Error:", "user name", "etcdserver"))
        ]
        return Said(done.returncode, output, errors)

    def _plain(self, text: str, words: str) -> str:
        if words.startswith("member add"):
            # An id is made of the URLs and the second: whether it or the URLs are found first is chance.
            text = text.replace("member ID already exist", "Peer URLs already exists")
        for pattern, instead in _VARYING:
            text = re.sub(pattern, instead, text)
        text = text.replace(self.address, "<address>").replace(str(self._directory), "<directory>")
        text = re.sub(r"127\.0\.0\.1:\d{4,5}", "<address>", text)
        text = re.sub(rf"\b{re.escape(self._name)}\b", "<name>", text)
        for prefix, patterns in _VARYING_OF.items():
            if words.startswith(prefix):
                for pattern, instead in patterns:
                    text = re.sub(pattern, instead, text)
        if words.startswith("member "):
            text = _in_any_order(text)
        # Widths of table columns follow from what is in them.
        text = re.sub(r" +\|", " |", re.sub(r"-+\+", "+", text))
        return re.sub(r"[ ]{2,}", " ", text)


def _message(raw: bytes, words: str) -> object:
    """Return a protobuf response without ids and times; what is no response, as it is printed."""
    form = next((form for prefix, form in _RESPONSES.items() if words.startswith(prefix)), rpc.CompactionResponse)
    try:
        response: Any = form.FromString(raw.removeprefix(b"User: user\n\n"))
    except DecodeError:
        return re.sub(rb"127\.0\.0\.1:\d{4,5}", b"<address>", raw)
    for field in ("cluster_id", "member_id", "raft_term"):
        response.header.ClearField(field)
    if words.startswith("lease "):
        # etcdctl wraps what leases answer, so that the header is one level down; the rest is compared in other formats.
        return sorted(field.number for field, _ in response.ListFields())
    for member in getattr(response, "members", ()):
        member.ClearField("ID")
        if member.name:
            for field in ("name", "peerURLs", "clientURLs"):
                member.ClearField(field)
    if hasattr(response, "members"):
        return sorted(str(member) for member in response.members)
    return response.SerializeToString()


def _in_any_order(text: str) -> str:
    """Return what is said of members with the members in an order that does not depend on their ids."""
    text = re.sub(r'(?<=ETCD_INITIAL_CLUSTER=")[^"]*', lambda names: ",".join(sorted(names[0].split(","))), text)
    if text.startswith("{"):
        decoded = json.loads(text)
        if "members" in decoded:
            decoded["members"].sort(key=str)
        return json.dumps(decoded)
    # Nothing stands between the header and the first member.
    blocks = re.split(r'\n+(?="ID" : )', text) if text.startswith('"') else text.splitlines()
    return "\n".join(sorted(block.strip("\n") for block in blocks)) if len(blocks) > 1 and "ETCD_" not in text else text


_RESPONSES: Final[dict[str, Any]] = {
    "member add": rpc.MemberAddResponse,
    "member remove": rpc.MemberRemoveResponse,
    "member update": rpc.MemberUpdateResponse,
    "member list": rpc.MemberListResponse,
}
"""What `-w protobuf` prints, where more than the header has ids."""
_VARYING: Final = (
    (r'"(cluster_id|member_id|raft_term|ID|leader)":\d+', r'"\1":0'),
    (r'^"?(ClusterID|MemberID|RaftTerm|ID|Leader)"? : \d+', r'"\1" : 0'),
    (r'(?m)^"(ClusterID|MemberID|RaftTerm|ID|Leader)" : -?\d+', r'"\1" : 0'),
    (r"took = [\d.]+[µm]?s", "took"),
    (r'"took":"[\d.]+[µm]?s"', '"took"'),
    (r'"Took" : "[\d.]+[µm]?s"', '"Took"'),
    (r"[\d.]+[µm]s\b", "<time>"),
    (r"remaining\(\d+s\)", "remaining"),
    (r'"ttl":(99\d{3}|100000)', '"ttl":left'),
    (r'"TTL" : (99\d{3}|100000)', '"TTL" : left'),
    (r"\b(?!7000000000000)[0-9a-f]{13,16}\b", "<id>"),
)
"""What differs from store to store, in every command."""
_SIZES: Final = (
    (
        r'"(version|dbSize|raftIndex|raftAppliedIndex|raftTerm|dbSizeInUse|hash|compact_revision)":("[^"]*"|\d+)',
        r'"\1":0',
    ),
    (r'"(Version|DBSize|RaftIndex|RaftAppliedIndex|RaftTerm|DBSizeInUse|Hash)" : ("[^"]*"|\d+)', r'"\1" : 0'),
)
_VARYING_OF: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "endpoint status": (
        *_SIZES,
        (r"\d+\.\d+\.\d+", "<version>"),
        (r"[\d.]+ [kM]?B", "<size>"),
        (r"(true|false), (true|false), \d+, \d+, \d+,", r"\1, \2, <raft>,"),
        (r"(true|false) \| +(true|false) \|[ \d|]+", r"\1 | \2 | <raft> "),
    ),
    "endpoint hashkv": (*_SIZES, (r", \d+", ", <hash>"), (r"\| +\d+ +\|", "| <hash> |")),
    "snapshot status": (
        *_SIZES,
        (r"^[0-9a-f]+, (\d+), (\d+), .*", r"<hash>, \1, \2, <size>"),
        (r"\| +[0-9a-f]{6,8} +\| +(\d+) \| +(\d+) \|.*", r"| <hash> | \1 | \2 |"),
        (r'"(totalSize|totalKey)":\d+', r'"\1":0'),
        (r'"(Size|Keys|Hash)" : \d+', r'"\1" : 0'),
    ),
}
"""What differs in some commands alone: sizes, versions, hashes, indexes of the log."""
