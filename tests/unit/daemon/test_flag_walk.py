"""Every flag of etcd does what it says, or is warned of, or is refused; none is ignored without a word."""

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from daemon_starts import LISTEN, planned, settings_of, warned

from daemon.command_line import CommandLineError
from daemon.flag import Fate, Flag, Kind
from daemon.flag_table import FLAGS, GROUPS
from daemon.flag_table_old import GATES
from daemon.gates import KNOWN_GATES
from daemon.words import help_text
from protocol.errors import ConfigError

NAMES = frozenset((Path(__file__).parent / "etcd_flags.txt").read_text().split())
"""The names of every flag that etcd 3.4.45, 3.5.33, 3.6.14 and 3.7.1 know, as their sources define them."""
SAMPLE_OF_KIND = {
    Kind.TEXT: "other",
    Kind.NUMBER: "7",
    Kind.COUNT: "7",
    Kind.TIME: "7s",
    Kind.URLS: "http://127.0.0.1:777",
    Kind.LIST: "one,two",
    Kind.SWITCH: "x",
}
SAMPLES = {
    "max-request-bytes": "1000000",
    "election-timeout": "2000",
    "metrics": "extensive",
    "discovery-fallback": "proxy",
    "tls-min-version": "TLS1.3",
    "logger": "capnslog",
    "log-outputs": "stdout",
    "log-output": "stdout",
    "auto-compaction-retention": "30m",
    "auth-token": "jwt,sign-method=ES256,pub-key=/k",
    "quota-backend-bytes": "1000000000",
    "feature-gates": "InitialCorruptCheck=true",
}
"""Values that are not the default, where the kind does not say enough."""
WITH = {
    "listen-client-urls": LISTEN[1:],
    "auto-compaction-mode": ("--auto-compaction-retention=7",),
    "initial-cluster": ("--name=n7", "--initial-advertise-peer-urls=http://127.0.0.1:7"),
}
"""Flags that go with one."""
CERTIFICATE = ("--cert-file=/c", "--key-file=/k")
WITH |= {
    "cert-file": ("--key-file=/k",),
    "key-file": ("--cert-file=/c",),
    "client-crl-file": (*CERTIFICATE, "--trusted-ca-file=/ca"),
    "client-cert-allowed-hostname": (*CERTIFICATE, "--client-cert-auth"),
    "cipher-suites": CERTIFICATE,
    **dict.fromkeys(("client-cert-auth", "trusted-ca-file", "tls-min-version", "tls-max-version"), CERTIFICATE),
    **dict.fromkeys(("curve-peer-keys-dir", "curve-client-keys-dir"), ("--curve-secret-key-file=/s",)),
    "self-signed-cert-validity": ("--auto-tls",),
}
SAMPLES["cipher-suites"] = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
SAMPLES["initial-cluster"] = "n7=http://127.0.0.1:7,n8=http://127.0.0.1:8"
HALVES = {"cert-file": ("--key-file=/k",), "key-file": ("--cert-file=/c",)}
"""Flags that mean nothing without the one, so that the node before has neither."""
GATE_OF_FLAG = dict(GATES)
ELSEWHERE = {"version", "config-file", "initial-cluster-state"}
"""Flags whose effect is not in the plan, with a test of their own."""


def sample(flag: Flag) -> str:
    """A value of `flag` that asks for something else than the default does."""
    if flag.name in GATE_OF_FLAG:
        return str(not KNOWN_GATES[GATE_OF_FLAG[flag.name]].here).lower()
    if flag.name in SAMPLES:
        return SAMPLES[flag.name]
    if flag.choices:
        return next(choice for choice in flag.choices if choice not in (flag.default, ""))
    if flag.kind is Kind.TRUTH:
        return "false" if flag.default == "true" else "true"
    return SAMPLE_OF_KIND[flag.kind]


def outcome(words: Sequence[str], environment: Mapping[str, str]) -> object:
    """What was given, or why it is refused; however it was given."""
    try:
        return settings_of(words, environment).given
    except ConfigError as error:
        return str(error).partition("=")[2]


def test_the_table_has_every_flag_that_etcd_ever_had() -> None:
    """From 3.4 to 3.7, as their sources define them; what is in the table besides is ours."""
    assert NAMES - set(FLAGS) == set()
    assert set(FLAGS) - NAMES == {flag.name for flag in FLAGS.values() if flag.ours}
    assert sum(len(group.flags) for group in GROUPS) == len(FLAGS), "no flag stands twice"


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_a_flag_has_its_fate(flag: Flag) -> None:
    """Mapped: the node is another one. Noted: a warning gives the reason. Refused: so does the refusal."""
    word = f"--{flag.name}={sample(flag)}"
    others = WITH.get(flag.name, ())
    fate = FLAGS[flag.stands_for].fate if flag.stands_for else flag.fate
    note = FLAGS[flag.stands_for].note if flag.stands_for else flag.note
    assert note.strip()
    if fate is Fate.REFUSED:
        with pytest.raises(ConfigError) as refused:
            planned(word, *others)
        assert str(refused.value) == f"{word} is refused: {note}"
    elif fate is Fate.NOTED:
        told = warned(word, *others)
        assert f"'flag': '--{flag.name}'" in told
        assert repr(note) in told or note in told
        assert planned(word, *others) == planned(*others)
    elif flag.name not in ELSEWHERE:
        before = planned(*(other for other in others if other not in HALVES.get(flag.name, ())))
        assert planned(word, *others) != before or "flag has no effect" in warned(word, *others)


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_the_default_asks_for_nothing(flag: Flag) -> None:
    """A unit file that spells defaults out starts without refusals, and with no warning but that of a newer name."""
    if flag.kind is Kind.SWITCH or flag.name in ("config-file", "version", "data-dir", "listen-client-urls"):
        return
    default = FLAGS[flag.stands_for].default if flag.stands_for else flag.default
    if flag.name in GATE_OF_FLAG:
        default = str(KNOWN_GATES[GATE_OF_FLAG[flag.name]].here).lower()
    assert "no effect" not in warned(f"--{flag.name}={default}")


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_a_variable_says_the_same_as_its_flag(flag: Flag) -> None:
    """ETCD_ and the name in capitals, with the value read alike."""
    if flag.name in ("config-file", "version"):
        return
    value, others = sample(flag), WITH.get(flag.name, ())
    assert outcome(others, {flag.environment: value}) == outcome([f"--{flag.name}={value}", *others], {})


@pytest.mark.parametrize("flag", FLAGS.values(), ids=lambda flag: flag.name)
def test_a_bad_value_is_told_with_flag_and_value(flag: Flag) -> None:
    """Before anything is started, in Go's words, with the exit status of a bad command line."""
    if flag.kind in (Kind.TEXT, Kind.LIST, Kind.SWITCH, Kind.URLS) and not flag.choices:
        return
    with pytest.raises(CommandLineError) as refused:
        settings_of([f"--{flag.name}=?bad?"])
    assert re.search(rf'invalid (boolean )?value "\?bad\?" for flag -{re.escape(flag.name)}: ', str(refused.value))
    if flag.name != "version":
        with pytest.raises(ConfigError, match=f'invalid value "[?]bad[?]" for {flag.environment}: '):
            settings_of([], {flag.environment: "?bad?"})


@pytest.mark.parametrize("gate", KNOWN_GATES)
def test_a_gate_is_as_it_is_here_and_the_other_way_is_told(gate: str) -> None:
    """No feature gate is taken without a word, and an unknown one is refused as etcd does."""
    here = KNOWN_GATES[gate].here
    assert "no effect" not in warned(f"--feature-gates={gate}={str(here).lower()}")
    told = warned(f"--feature-gates={gate}={str(not here).lower()}")
    assert "no effect" in told
    assert KNOWN_GATES[gate].why in told
    with pytest.raises(ConfigError, match="unrecognized feature gate: Colour"):
        planned("--feature-gates=Colour=true")


def test_help_names_every_flag() -> None:
    """With its default and what it does here, or why not."""
    text = help_text()
    for flag in FLAGS.values():
        assert f"--{flag.name} '{flag.default}'\n" in text
        assert flag.note in text


def test_what_the_installed_etcd_knows_is_in_the_table() -> None:
    """Its own help is the witness; defaults are equal but for those that newer versions have changed."""
    etcd = shutil.which("etcd")
    if etcd is None:
        pytest.skip("etcd is not installed (apt-get install etcd-server)")
    shown = subprocess.run([etcd, "--help"], capture_output=True, text=True, check=False)
    text = shown.stdout + shown.stderr
    found = dict(re.findall(r"^  --([a-z0-9-]+) '?([^'\n]*)'?$", text, re.MULTILINE))
    assert len(found) > 70, text
    assert set(found) <= set(FLAGS)
    differing = {
        name: (default, FLAGS[name].default)
        for name, default in found.items()
        if FLAGS[name].default != default and not FLAGS[name].stands_for
    }
    assert set(differing) <= {
        "snapshot-count", "pre-vote", "logger", "discovery-fallback", "max-concurrent-streams",
        "grpc-keepalive-interval", "experimental-initial-corrupt-check", "experimental-enable-lease-checkpoint",
    }  # fmt: skip
