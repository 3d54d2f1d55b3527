"""How flags, variables and the file are read and put together, as etcd does it."""

import pytest
from daemon_starts import LISTEN, planned, settings_of, warned

from daemon import go_values
from daemon.command_line import CommandLineError, HelpAsked
from protocol.config import cluster_id_of, member_id_of
from protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-name", "a"], "name", "a"),
        (["--name=a", "--name", "b"], "name", "b"),
        (["--pre-vote", "--name=a"], "pre-vote", "true"),
        (["--pre-vote=F"], "pre-vote", "F"),
        (["--name="], "name", ""),
        (["--max-txn-ops", "0x10"], "max-txn-ops", "0x10"),
        (["--v", "--name=x"], "v", "true"),
    ],
)
def test_words_are_read_as_go_reads_them(words: list[str], name: str, value: str) -> None:
    """One dash or two, a value behind = or as the next word, the last of several; booleans take no word."""
    assert settings_of(words).given[name] == value


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--colour=red"], "flag provided but not defined: -colour"),
        (["--name"], "flag needs an argument: -name"),
        (["serve"], '"serve" is not a valid flag'),
        (["--pre-vote", "false"], '"false" is not a valid flag'),
        (["--", "serve"], '"serve" is not a valid flag'),
        (["---name=x"], "bad flag syntax: ---name=x"),
        (["--snapshot-count=many"], 'invalid value "many" for flag -snapshot-count: parse error'),
        (["--snapshot-count=-1"], 'invalid value "-1" for flag -snapshot-count: parse error'),
        (["--grpc-keepalive-timeout=20"], 'invalid value "20" for flag -grpc-keepalive-timeout: parse error'),
        (["--initial-cluster-state=old"], "it is one of 'new', 'existing'"),
    ],
)
def test_words_that_are_no_flags_are_told_in_gos_words(words: list[str], told: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(CommandLineError) as refused:
        settings_of(words)
    assert told in str(refused.value)


def test_help_is_heard_wherever_it_stands() -> None:
    """With one dash or two."""
    for word in ("-h", "--help", "-help"):
        with pytest.raises(HelpAsked):
            settings_of(["--name=x", word])


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [("0", 0), ("100ms", 10**8), ("1h30m", 5400 * 10**9), ("1.5s", 15 * 10**8), ("-2us", -2000), (".5m", 30 * 10**9)],
)
def test_durations_are_gos(text: str, nanoseconds: int) -> None:
    """Parts with units, in any order and number."""
    assert go_values.nanoseconds(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "5", "1d", "s", "9" * 400 + "h", "1s 2s", "1e3s", "--1s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number without a unit is none."""
    with pytest.raises(ValueError, match=r"parse error|value out of range"):
        go_values.nanoseconds(text)


def test_a_flag_wins_over_its_variable_and_says_so() -> None:
    """And a variable over the default; an empty one is none."""
    environment = {"ETCD_NAME": "env", "ETCD_MAX_TXN_OPS": "5", "ETCD_DATA_DIR": "", "ETCD_COLOUR": "red", "HOME": "/"}
    settings = settings_of(["--name=flag"], environment)
    assert (settings.text("name"), settings.number("max-txn-ops")) == ("flag", 5)
    assert "data-dir" not in settings.given
    told = [(event, fields) for event, fields in settings.warnings]
    assert ("environment variable is shadowed by its flag", {"variable": "ETCD_NAME", "flag": "--name"}) in told
    assert ("unrecognized environment variable", {"variable": "ETCD_COLOUR"}) in told
    assert len(told) == 2


def test_stores_are_compared_as_often_as_etcds_flag_says() -> None:
    """By either name; its default, spelled out, does not end the comparisons that are made by default here."""
    for name in ("corrupt-check-time", "experimental-corrupt-check-time"):
        assert planned(f"--{name}=10m").config.storage.integrity_check_interval_ms == 600_000
        assert planned(f"--{name}=0s").config.storage.integrity_check_interval_ms == 60_000
        told = warned(f"--{name}=10m", "--experimental-compact-hash-check-enabled")
        assert "no effect" not in told
    told = warned("--experimental-initial-corrupt-check")
    assert "quarantined" in told


def test_old_and_new_name_of_a_flag_exclude_each_other() -> None:
    """As in etcd; the old one alone is heard, and the new one is recommended."""
    assert planned("--experimental-watch-progress-notify-interval=5s").config.watch.progress_notify_interval_ms == 5000
    assert "--watch-progress-notify-interval" in warned("--experimental-watch-progress-notify-interval=5s")
    with pytest.raises(ConfigError, match="say the same thing"):
        planned("--experimental-corrupt-check-time=0s", "--corrupt-check-time=0s")
    with pytest.raises(ConfigError, match="say the same thing"):
        planned("--experimental-enable-lease-checkpoint", "--feature-gates=LeaseCheckpoint=true")


YAML = """
name: 'from-file'
data-dir: /var/lib/f
snapshot-count: 4321
grpc-keepalive-timeout: 9000000000
watch-progress-notify-interval: 3s
listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2
advertise-client-urls: http://127.0.0.1:1
initial-advertise-peer-urls: http://127.0.0.1:7
initial-cluster: from-file=http://127.0.0.1:7
log-outputs: [stdout]
proxy: 'off'
cors:
socket-options:
  reuse-address: true
colour: red
peer-transport-security:
  size: 3
"""


def test_a_configuration_file_replaces_everything_else() -> None:
    """Flags and variables beside it are not looked at; etcd's sections and nanoseconds are understood."""
    made = planned("--name=flag", "--config-file=f", environment={"ETCD_MAX_TXN_OPS": "5"}, files={"f": YAML})
    assert (made.node.name, str(made.data_dir), made.log.outputs) == ("from-file", "/var/lib/f", ("stdout",))
    assert made.config.raft.snapshot_count == 4321
    assert made.config.limits.txn_operations_max == 128
    assert made.config.limits.keepalive_timeout_ms == 9000
    assert made.config.watch.progress_notify_interval_ms == 3000
    assert [address.port for address in made.node.client_listeners] == [1, 2]
    by_variable = planned(environment={"ETCD_CONFIG_FILE": "f"}, files={"f": YAML})
    assert by_variable == made
    told = warned("--config-file=f", files={"f": YAML})
    for expected in ("instead of all other flags", "'key': 'colour'", "'key': 'peer-transport-security.size'"):
        assert expected in told
    assert "socket-reuse-address" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "f: not valid YAML: "),
        ("- a\n- b", "f: is not a table of keys and values"),
        ("name: true", "f: name: is text, not true or false; put the word in quotes"),
        ("name: {a: b}", "f: name: is text, not a dict"),
        ("snapshot-count: many", 'invalid value "many" for f: snapshot-count: parse error'),
        ("snapshot-count: 1.5", "f: snapshot-count: is number from 0 on, not a float"),
        ("name: 2001-99-99", "f: not valid YAML: month must be in 1..12"),
        ("a: &a [x, x]\nb: &b [*a, *a]\ncors: [*b, *b]", "f: cors: is list, with commas, not a list"),
        ("client-transport-security: yes", "f: client-transport-security: is a section, with keys of its own below it"),
        ("unsafe-no-fsync: true", "f: unsafe-no-fsync=true is refused: an acknowledged write is on disk, always"),
    ],
)
def test_a_wrong_file_is_told_with_its_key(text: str, told: str) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(ConfigError) as refused:
        planned("--config-file=f", files={"f": text})
    assert str(refused.value).startswith(told)


def test_a_file_that_is_not_there_is_told() -> None:
    """With its path."""
    with pytest.raises(ConfigError, match="g: cannot be read: No such file or directory"):
        planned("--config-file=g")


def test_flags_become_a_node() -> None:
    """Its addresses, its founders with etcd's ids, and every size and time that was given."""
    made = planned(
        "--name=s1", "--initial-cluster-token=tkn", "--election-timeout=20000", "--heartbeat-interval=200",
        "--listen-client-urls=http://127.0.0.1:1,unix://x.sock", "--advertise-client-urls=http://a.example:1",
        "--listen-peer-urls=http://127.0.0.1:2", "--initial-advertise-peer-urls=http://a.example:7,http://127.0.0.1:8",
        "--initial-cluster=s1=http://127.0.0.1:8,s1=http://a.example:7,s2=http://c.example:7",
        "--quota-backend-bytes=-1", "--max-concurrent-streams=77", "--cors=http://x,http://y", "--log-level=warn",
    )  # fmt: skip
    ours = member_id_of(["http://a.example:7", "http://127.0.0.1:8"], "tkn")
    theirs = member_id_of(["http://c.example:7"], "tkn")
    assert [founder.member for founder in made.founding.founders] == [ours, theirs]
    assert made.founding.cluster == cluster_id_of([ours, theirs])
    assert made.founding.founders[0].client_urls == (), "equal on all members, whatever each says to clients"
    assert made.node.client_urls == ("http://a.example:1",)
    assert made.node.client_listeners[1].host.endswith("/x.sock"), "actors work elsewhere"
    assert made.node.zmq == "", "whoever chose ports for clients did not choose one for this door"
    config = made.config
    assert (config.raft.election_timeout_ms, config.raft.heartbeat_interval_ms) == (20_000, 200)
    assert config.leases.checkpoint_interval_ms == 80_000
    assert (config.storage.quota_bytes, config.limits.concurrent_streams_max) == (0, 77)
    assert config.http.allowed_origins == ("http://x", "http://y")
    assert made.log.level == "warning"


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--auto-compaction-retention=5"], ("periodic", 5 * 3_600_000, 0)),
        (["--auto-compaction-retention=90s"], ("periodic", 90_000, 0)),
        (["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"], ("revision", 0, 1000)),
        (["--auto-compaction-mode=revision"], ("off", 0, 0)),
        (["--auto-compaction-retention=0s"], ("off", 0, 0)),
    ],
)
def test_history_is_kept_as_etcds_two_flags_say(words: list[str], kept: tuple[str, int, int]) -> None:
    """A time without a unit is in hours."""
    compaction = planned(*words).config.compaction
    assert (compaction.auto_mode, compaction.auto_retention_ms, compaction.auto_retention_revisions) == kept


def test_tokens_and_passwords_are_as_etcds_flags_say() -> None:
    """The kind of tokens in etcd's own words; a time to live of nothing is the default."""
    auth = planned("--auth-token=jwt,sign-method=ES256,pub-key=/k", "--bcrypt-cost=5", "--auth-token-ttl=0").config.auth
    assert (auth.token_options.sign_method, auth.bcrypt_cost, auth.token_ttl_s) == ("ES256", 5, 300)
    assert planned("--auth-token-ttl=7").config.auth.token_ttl_s == 7
    with pytest.raises(ConfigError, match="sign-method must be one of"):
        planned("--auth-token=jwt,pub-key=/k")


def test_an_https_url_has_the_certificate_and_plain_ones_beyond_loopback_are_asked_for() -> None:
    """Both kinds may stand side by side."""
    made = planned(
        "--listen-client-urls=https://0.0.0.0:1,http://127.0.0.1:2", "--advertise-client-urls=https://a.example:1",
        "--cert-file=/c", "--key-file=/k", "--trusted-ca-file=/ca", "--client-cert-auth",
    )  # fmt: skip
    assert [address.secure for address in made.node.client_listeners] == [True, False]
    tls = made.node.client_transport_security
    assert (tls.cert_file, tls.key_file, tls.trusted_ca_file, tls.client_cert_auth) == ("/c", "/k", "/ca", True)
    everywhere = planned(
        "--listen-client-urls=http://0.0.0.0:1", "--advertise-client-urls=http://a.example:1",
        "--listen-peer-urls=http://0.0.0.0:2", "--allow-insecure-listen",
    )  # fmt: skip
    assert [address.host_port for address in everywhere.node.peer_listeners] == ["0.0.0.0:2"]


def test_peer_certificates_are_a_warning_once_there_is_curve() -> None:
    """A manifest with them starts, members are secured, and whoever reads the log knows by what."""
    peers = ("--listen-peer-urls=https://0.0.0.0:2", "--initial-advertise-peer-urls=https://a.example:2")
    words = (*peers, "--initial-cluster=default=https://a.example:2", "--peer-cert-file=/c", "--peer-client-cert-auth")
    with pytest.raises(ConfigError, match="peer-cert-file=/c is refused: members speak CURVE"):
        planned(*words)
    told = warned(*words, "--curve-secret-key-file=/s")
    assert told.count("members speak CURVE and not TLS") == 2
    made = planned(*words, "--curve-secret-key-file=/s")
    assert made.node.curve.secret_key_file == "/s"
    assert made.founding.founders[0].member == member_id_of(["https://a.example:2"], "etcd-cluster")


def test_nothing_said_is_a_node_as_etcds_defaults_have_it() -> None:
    """One member on 2379 and 2380, ZeroMQ clients beside it, in default.etcd."""
    made = planned()
    assert [address.text for address in made.node.client_listeners] == ["http://localhost:2379"]
    assert [address.zmq_bind() for address in made.node.peer_listeners] == ["tcp://127.0.0.1:2380"]
    assert made.node.zmq == "127.0.0.1:2381"
    assert made.data_dir.name == "default.etcd"
    assert [founder.name for founder in made.founding.founders] == ["default"]
    assert planned("--listen-zmq-urls=none").node.zmq == ""
    assert planned(*LISTEN, "--listen-zmq-urls=http://localhost:5").node.zmq == "127.0.0.1:5"
    assert planned("--name=abc").founding.founders[0].name == "abc"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--listen-client-urls=http://127.0.0.1:1"], "--advertise-client-urls is required when --listen-"),
        (
            ["--election-timeout=400"],
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (["--election-timeout=60000"], "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        (["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            ["--name=x", "--initial-cluster=y=http://localhost:2380"],
            'couldn\'t find local name "x" in the initial cluster configuration',
        ),
        (
            ["--initial-cluster=default=http://127.0.0.1:9"],
            "--initial-cluster has http://127.0.0.1:9 but missing from --in",
        ),
        (["--initial-cluster=default"], "--initial-cluster: 'default' is not NAME=PEER-URL"),
        (["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"], "share the URL"),
        (["--initial-cluster=default=localhost:2380"], "--initial-cluster: default: URL scheme must be"),
        (["--initial-cluster=,"], "--initial-cluster: names no member"),
        (["--initial-cluster-state=existing"], "--initial-cluster names no member of the existing cluster to ask"),
        (["--listen-peer-urls=http://example.org:1"], "--listen-peer-urls: expected IP in URL for binding"),
        (["--listen-peer-urls="], "--listen-peer-urls: no valid URLs given"),
        ([*LISTEN[1:], "--listen-client-urls=unix://x"], "--listen-client-urls: at least one http:// URL is needed"),
        (
            ["--listen-zmq-urls=http://127.0.0.1:1,http://127.0.0.1:2"],
            "--listen-zmq-urls: is one http:// URL, or 'none'",
        ),
        (["--max-request-bytes=5"], "--max-request-bytes=5: Input should be greater than or equal to 1024"),
        (["--name=a b"], "--name=a b: String should match pattern"),
        (["--watch-progress-notify-interval=1ms"], "--watch-progress-notify-interval=1ms: Input should be greater"),
        (["--log-outputs=default,stdout"], "--log-outputs: multi logoutput"),
        (
            ["--feature-gates=LeaseCheckpoint=maybe"],
            "--feature-gates: LeaseCheckpoint=maybe: is NAME=true or NAME=false",
        ),
    ],
)
def test_what_cannot_be_is_told_by_the_flags_name(words: list[str], told: str) -> None:
    """Where etcd has a text for it, in etcd's words."""
    with pytest.raises(ConfigError) as refused:
        planned(*words)
    assert told in str(refused.value)


def test_a_name_and_its_address_are_one_member() -> None:
    """--initial-cluster may say a name where --initial-advertise-peer-urls says another of the same machine."""
    made = planned("--initial-advertise-peer-urls=http://a.example:7", "--initial-cluster=default=http://b.example:7")
    assert made.founding.founders[0].peer_urls == ("http://b.example:7",), "ids come from --initial-cluster"


def test_a_node_that_joins_asks_the_members_it_was_given() -> None:
    """What --initial-cluster says of others is whom to ask; ids come from the cluster."""
    words = [
        "--initial-cluster=default=http://localhost:2380,old=http://127.0.0.1:7",
        "--initial-cluster-state=existing",
    ]
    made = planned(*words)
    assert made.config.initial_cluster_state == "existing"
    assert [founder.name for founder in made.founding.founders] == ["default", "old"]


def test_initial_flags_say_nothing_once_there_is_data() -> None:
    """A member that was started before starts again whatever they say, as etcd's does."""
    words = ["--name=x", "--initial-cluster=y=http://localhost:1", "--initial-cluster-state=existing"]
    assert planned(*words, begun=True).node.name == "x"
    with pytest.raises(ConfigError):
        planned(*words)
