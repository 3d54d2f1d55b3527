"""Fuzz targets, shortly: seeds, inputs that once broke something, and some by chance; and the judge itself."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from fuzz import judge as judging
from fuzz.blind import run_blind
from fuzz.judge import InputFailed, Judge
from fuzz.mutation import Mutator
from fuzz.target import INPUT_BYTES_MAX, Material, Target
from fuzz.targets import TARGETS
from tools import fuzz as command

KEPT = Path(__file__).parent.parent / "fuzz_inputs"
INPUTS_PER_TARGET = 150


def so_often(count: int) -> Callable[[], bool]:
    """Say yes so many times."""
    answers = iter([True] * count)
    return lambda: next(answers, False)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_survives_its_seeds_and_changes_of_them(name: str, tmp_path: Path) -> None:
    """Its seeds and 150 more, always the same; the long run is `python -m tools.fuzz`."""
    judge = Judge(TARGETS[name], tmp_path)
    run_blind(TARGETS[name], judge, Random(1), so_often(INPUTS_PER_TARGET))
    assert judge.inputs > INPUTS_PER_TARGET


@pytest.mark.parametrize("path", sorted(KEPT.glob("*-*")), ids=lambda path: path.name)
def test_what_once_broke_something_breaks_nothing(path: Path, tmp_path: Path) -> None:
    """Each file is an input that fuzzing has found; `docs/bugs-found.md` has the stories."""
    Judge(TARGETS[path.name.partition("-")[0]], tmp_path).run(path.read_bytes())


def refuse_the_letter_x(data: bytes) -> None:
    """A target with a bug."""
    if b"x" in data:
        raise KeyError(data)


BUGGY = Target("buggy", "anything", refuse_the_letter_x, lambda: [b"abc"], (b"x",))


def test_failing_input_is_kept_and_told_with_its_replay(tmp_path: Path) -> None:
    """By chance alone the bug is found; the file holds the very input."""
    judge = Judge(BUGGY, tmp_path / "found")
    with pytest.raises(InputFailed, match=r"KeyError(.|\n)*replay: python -m tools.fuzz --target buggy --replay"):
        run_blind(BUGGY, judge, Random(3), so_often(1000))
    (kept,) = (tmp_path / "found").iterdir()
    assert b"x" in kept.read_bytes()
    assert judge.inputs < 1000


def test_slow_and_greedy_inputs_fail(tmp_path: Path) -> None:
    """What an input may cost is bounded in time and in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "CPU_S_MAX", -1.0)
        with pytest.raises(InputFailed, match=r"0\.0 s for 3 bytes"):
            Judge(BUGGY, tmp_path).run(b"abc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "MEMORY_MIB_MAX", -1)
        judge = Judge(BUGGY, tmp_path)
        with pytest.raises(InputFailed, match="grown by 0 MiB, at most -1 are fair"):
            run_blind(BUGGY, judge, Random(1), so_often(100))


def test_mutation_is_decided_by_its_seed() -> None:
    """The same generator makes the same inputs, of many lengths and never too long."""
    corpus = [b"abc" * 1000, b"", bytes(range(256))]
    mutators = (Mutator(Random(7), [b"word"]), Mutator(Random(7), [b"word"]))
    first, again = ([mutator.mutate(corpus) for _ in range(300)] for mutator in mutators)
    assert first == again
    assert len(set(first)) > 250
    assert max(map(len, first)) <= INPUT_BYTES_MAX
    assert any(b"word" in data for data in first)


def test_material_is_zero_behind_its_end() -> None:
    """Whatever asks for more than there is gets something all the same."""
    material = Material(b"\x01\x02abc")
    assert (material.number(256), material.number(2), material.take(2), bool(material)) == (1, 0, b"ab", True)
    assert (material.rest(), material.number(1000), material.take(5), bool(material)) == (b"c", 0, b"", False)


def test_command_fuzzes_reports_and_replays(tmp_path: Path) -> None:
    """A worker of its own, its figures in a table, and an input that is run again by itself."""
    paths = [f"--corpus={tmp_path / 'corpus'}", f"--found={tmp_path / 'found'}"]
    words = ["--target=protobuf", "--seconds=0.2", "--seed=1", "--blind", *paths]
    done = CliRunner().invoke(command.app, words)
    assert done.exit_code == 0, done.output
    target, engine, inputs, *_, result = done.output.splitlines()[1].split()
    assert (target, engine, result) == ("protobuf", "blind", "passed")
    assert int(inputs.replace(",", "")) > len(TARGETS["protobuf"].seeds())

    kept = tmp_path / "input"
    kept.write_bytes(b"\0\0abc")
    done = CliRunner().invoke(command.app, ["--target=protobuf", f"--replay={kept}", *paths])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("nothing happens")
    assert CliRunner().invoke(command.app, ["--target=nobody"]).exit_code == 2
