"""Whatever stands on the command line, in variables or in the file: a plan, or a refusal that says why."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon import go_values
from daemon.command_line import CommandLineError, HelpAsked
from daemon.flag_table import FLAGS
from daemon.plan import plan
from daemon.settings import gather
from protocol.errors import ConfigError

NAMES = st.sampled_from(sorted(FLAGS))
SCRAPS = st.sampled_from(
    ["true", "false", "0", "-1", "1h", "7s", "9" * 400, "http://127.0.0.1:1", "unix://x", "a=http://127.0.0.1:2", ","]
)
VALUES = st.one_of(SCRAPS, st.text(max_size=20), st.lists(SCRAPS, max_size=3).map(",".join))
WORDS = st.one_of(
    st.text(max_size=12),
    NAMES.map(lambda name: f"--{name}"),
    st.tuples(st.sampled_from(["-", "--", "---"]), NAMES, VALUES).map(lambda parts: f"{parts[0]}{parts[1]}={parts[2]}"),
)
YAML_VALUES = st.one_of(
    VALUES, st.sampled_from(["[a, b]", "{a: b}", "*x", "&x [*x]", "2001-99-99", "!!int x", "0x" * 9, "~", "1e999"])
)


def planned_or_refused(words: list[str], environment: dict[str, str], text: str) -> str:
    """What becomes of a start; anything but a plan must say something."""
    try:
        made = plan(gather(words, environment, lambda _path: text), lambda _name: frozenset(), begun=False)
    except (ConfigError, CommandLineError) as refused:
        return str(refused)
    except HelpAsked:
        return "help"
    return made.node.name or "a node"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(WORDS, max_size=4), st.dictionaries(NAMES.map(lambda name: FLAGS[name].environment), VALUES, max_size=3)
)
def test_no_words_and_no_variables_are_too_strange(words: list[str], environment: dict[str, str]) -> None:
    """No other error comes out, and none without a text."""
    assert planned_or_refused(
        words, {key: value for key, value in environment.items() if key != "ETCD_CONFIG_FILE"}, ""
    )


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.one_of(NAMES, st.text(max_size=8)), YAML_VALUES, max_size=4).map(
        lambda table: "\n".join(f"{key}: {value}" for key, value in table.items())
    )
)
@example("a: " + "[" * 1200)
@example("? {a: b}\n: c")
def test_no_file_is_too_strange(text: str) -> None:
    """YAML that is none, dates that are none, tables where a word should stand."""
    assert planned_or_refused(["--config-file=f"], {}, text)


@given(st.integers(min_value=0, max_value=10**15), st.sampled_from(["ns", "us", "ms", "s"]))
def test_a_duration_says_what_it_counts(amount: int, unit: str) -> None:
    """As long as it fits, exactly; two parts add up."""
    factor = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}[unit]
    if amount * factor > go_values.INT64_MAX // 2:
        return
    tolerance = (amount * factor) >> 50
    assert abs(go_values.nanoseconds(f"{amount}{unit}") - amount * factor) <= tolerance
    assert go_values.nanoseconds(f"{amount % 1000}{unit}1h") == amount % 1000 * factor + 3600 * 10**9
