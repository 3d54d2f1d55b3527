"""What operators write: the cluster file, etcd's flags, variables and YAML.

Promises: a configuration or an error that says something; no other error, and no guess that takes long.
"""

import contextlib
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from daemon.command_line import CommandLineError, HelpAsked
from daemon.flag_table import FLAGS
from daemon.founding import parse_initial_cluster
from daemon.plan import plan
from daemon.settings import gather
from fuzz.target import Material, Target, expect
from protocol.config import load_config
from protocol.errors import ConfigError

_NAMES: Final = tuple(sorted(FLAGS))


@cache
def _file() -> Path:
    """A file that lives as long as this process."""
    directory = tempfile.TemporaryDirectory(prefix="actd-fuzz-")
    _KEPT.append(directory)
    return Path(directory.name) / "cluster.toml"


_KEPT: Final[list["tempfile.TemporaryDirectory[str]"]] = []


def _cluster_file(material: Material) -> None:
    path = _file()
    path.write_bytes(material.rest())
    try:
        config = load_config(path)
    except ConfigError as error:
        expect(str(error).startswith(str(path)), f"which file? {error}")
        return
    config.founding()


def _plan(words: list[str], environment: dict[str, str], text: str) -> None:
    try:
        plan(gather(words, environment, lambda _path: text), lambda _name: frozenset(), begun=False)
    except (ConfigError, CommandLineError) as refused:
        expect(str(refused), "refused without a word")
    except HelpAsked:
        return


def _text(material: Material) -> str:
    return material.take(material.number(256)).decode(errors="surrogateescape")


def _name(material: Material) -> str:
    number = material.number(256)
    return _NAMES[number % len(_NAMES)] if number else _text(material)


def _flags(material: Material) -> None:
    words = []
    while material:
        words.append(f"--{_name(material)}={_text(material)}" if material.number(8) else _text(material))
    _plan(words, {}, "")


def _variables(material: Material) -> None:
    found = {}
    while material:
        name = _name(material)
        flag = FLAGS.get(name)
        found[flag.environment if flag is not None else f"ETCD_{name}"] = _text(material)
    found.pop("ETCD_CONFIG_FILE", None)
    _plan([], found, "")


def _yaml(material: Material) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        _plan(["--config-file=f"], {}, material.rest().decode())


def _initial_cluster(material: Material) -> None:
    try:
        parse_initial_cluster(material.rest().decode(errors="replace"), "--initial-cluster")
    except ConfigError as refused:
        expect(str(refused), "refused without a word")


KINDS: Final = (_cluster_file, _flags, _variables, _yaml, _initial_cluster)


def run(data: bytes) -> None:
    """Byte 0 chooses who reads it."""
    material = Material(data)
    KINDS[material.number(256) % len(KINDS)](material)


def seeds() -> list[bytes]:
    """The file we ship, every flag with values that are right or nearly so, traps of TOML and YAML."""
    shipped = (Path(__file__).parent.parent / "cluster.toml").read_bytes()
    files = [
        shipped,
        b'[[nodes]]\nname = "n"\nclient = "127.0.0.1:1"\npeer = "127.0.0.1:2"\nzmq = "127.0.0.1:3"\n',
        b"[[nodes]]\n[[nodes]]\n",
        b"a=" + b"[" * 2000,
        b'x = """',
        b"nodes = 1979-05-27T07:32:00Z\n",
        b"\xef\xbb\xbf",
        b"a=" + b"9" * 5000,
        b"raft = {election_timeout_ms = 1e400, heartbeat_interval_ms = nan}",
        b"a." * 1500 + b"a=1",
    ]
    values = [
        b"",
        b"true",
        b"0",
        b"-1",
        b"1h",
        b"9" * 200,
        b"http://127.0.0.1:1",
        b"unix://x",
        b"a=http://127.0.0.1:2",
        b"\xff,,",
        b"[::1]:2",
    ]
    flags = [
        bytes((1, 1 + number)) + bytes((len(values[number % len(values)]),)) + values[number % len(values)] + b"\1"
        for number in range(len(_NAMES))
    ]
    yaml = [
        b"name: s1\nlisten-client-urls: http://127.0.0.1:1\nsnapshot-count: 5\n",
        b"a: " + b"[" * 1200,
        b"? {a: b}\n: c",
        b"a: &a [*a]",
        b"a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nname: [*b,*b,*b,*b,*b,*b,*b,*b]",
        b"name: 2001-99-99",
        b"name: 1e999",
        b"name: " + b"9" * 5000,
        b"client-transport-security: {cert-file: [x]}",
        b"name: !!python/object:os.system x",
        b"name: 1:2:3:4",
        b"<<: {name: x}\n<<: [1]",
        b"name: !!binary x",
        b"name: !!timestamp x",
        b"name: 0x" + b"f" * 5000,
        b"client-transport-security: {0x" + b"f" * 5000 + b": x}",
        b"0x" + b"f" * 5000 + b": x",
        b"%YAML 9.9\n---\nname: x",
    ]
    clusters = [
        b"a=http://127.0.0.1:1,b=http://[::1]:2,a=https://x:3",
        b"=,=,",
        b"a=unix://x",
        b"a=http://127.0.0.1:99999",
    ]
    return [
        *(b"\0" + file for file in files),
        *flags,
        *(b"\2" + flag[1:] for flag in flags),
        *(b"\3" + text for text in yaml),
        *(b"\4" + text for text in clusters),
    ]


CONFIG: Final = Target(
    "config",
    "cluster files, flags, variables and YAML",
    run,
    seeds,
    (
        b"[[nodes]]\n",
        b"[raft]\n",
        b"election_timeout_ms = ",
        b"= [",
        b"127.0.0.1:1",
        b"http://",
        b"unix://",
        b"&a ",
        b"*a",
        b"!!",
        b"{",
        b"? ",
        b": ",
        b"1e999",
        b"nan",
        b"\n- ",
        b"client-transport-security:",
        b"auto-compaction-mode",
    ),
)
