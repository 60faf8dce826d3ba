"""Which texts and objects name a step, and what is said of the others."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from avdata.prepare.steps.registry import load_steps, refuse_clashes, step_columns, step_record
from avdata.prepare.steps.step import Clip, Step, StepResult
from avmanifest.columns import Column
from avmanifest.errors import ConfigError
from avmanifest.records import shown_step
from tests.steps import Chance, Light, NoDataclass


@dataclass(frozen=True)
class Any_:
    """A step whose every part a test can choose."""

    name: str = "any"
    version: Any = 1
    columns: Any = ()
    members: Any = ()
    needs: Any = ()

    def run(self, clip: Clip) -> StepResult:
        return StepResult()


class Bright(Light):
    """A step with the columns of another one."""

    name: ClassVar[str] = "bright"


def test_a_step_is_named_by_its_module_and_class() -> None:
    (step,) = load_steps(["tests.steps:Light:least=0.25"])
    assert step == Light(least=0.25)
    assert isinstance(step, Step)
    assert step_record(step) == {"name": "light", "version": 1, "settings": {"least": 0.25}}
    assert shown_step(step_record(step)) == "light, version 1 (least=0.25)"


def test_columns_say_which_step_they_come_from() -> None:
    columns = step_columns(load_steps([Light(), "tests.steps:Chance"]))
    assert [(column.name, column.source) for column in columns] == [
        ("light", "step light"),
        ("is_dim", "step light"),
        ("num_video_frames", "step light"),
        ("dice", "step chance"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "unknown step 'nothing'; known: "),
        ("no_such_module:Step", "no module no_such_module on Python's path or in "),
        ("tests.no_such:Step", "no module tests.no_such on"),
        ("tests.steps:Lihgt", "no class Lihgt in tests.steps; known: Light, Chance, SameMember, Odd, "),
        ("tests.steps:Light:least", "'least' is no setting"),
        ("tests.steps:Light:most=1", "unknown setting 'most'; known: least"),
        ("tests.steps:Light:least=high", "least='high' is not a number"),
        ("tests.steps:Light:least=2", "least=2.0: must be from 0 to 1"),
        ("tests.steps:NoDataclass", "NoDataclass is no dataclass"),
        ("tests.steps:Bare", "has no name, version, columns, members, needs, run"),
        ("../steps.py:Light", "unknown step '../steps.py:Light'"),
    ],
)
def test_a_wrong_text_is_refused_with_what_is_known(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_steps([text])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Loud"}, "its name 'Loud' must match"),
        ({"name": "../x"}, "must match"),
        ({"version": "1"}, "its version '1' is not a whole number"),
        ({"columns": ("x",)}, "not a tuple of avmanifest.columns.Column"),
        (
            {"columns": (Column(name="silent", dtype=pa.bool_(), meaning=""),)},
            "avkit has a column of this name",
        ),
        ({"columns": (Column(name="x", dtype=pa.binary(), meaning=""),)}, "its type is binary"),
        ({"columns": (Column(name="x", dtype=pa.int64(), meaning="", flag=True),)}, "a flag is of type bool"),
        ({"members": ("../x.npy",)}, "the member '../x.npy'"),
        ({"members": (".npy",)}, "the member '.npy'"),
        ({"members": ("a.b.npy",)}, "the member 'a.b.npy'"),
        ({"members": ("X.npy",)}, "the member 'X.npy'"),
        ({"members": ("json",)}, "the member 'json'"),
        ({"members": ("frame00.jpg",)}, "the member 'frame00.jpg'"),
        ({"members": ("much-too-long-a-name.npy",)}, "at most 19 characters"),
        ({"members": "x.npy"}, "its members are not a tuple"),
        ({"needs": ("pictures",)}, "are not of frames, waveform, video"),
    ],
)
def test_a_step_with_a_wrong_part_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_steps([replace(Any_(), **changes)])
    assert says in str(caught.value)


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is no step\. Give Light\(\)"):
        load_steps([Light])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="is no step"):
        load_steps([NoDataclass()])  # type: ignore[list-item]


def test_two_steps_share_no_name_column_or_member() -> None:
    for first, second, what in (
        (Light(), Light(least=0.5), "the name light"),
        (Light(), Bright(), "the column light"),
        (Any_("a", members=("x.npy",)), Any_("b", members=("x.npy",)), "the member x.npy"),
        (Any_("a", members=("x.npy", "x.npy")), Chance(), "the member x.npy"),
    ):
        with pytest.raises(ConfigError, match=f"both have {what}"):
            load_steps([first, second])


def test_a_column_of_the_list_is_not_replaced() -> None:
    refuse_clashes([Light()], ["key", "caption"])
    with pytest.raises(ConfigError, match="step light adds the column light, which the list or another step has, too"):
        refuse_clashes([Light()], ["key", "light"])


def test_a_step_that_does_not_pickle_is_refused() -> None:
    @dataclass(frozen=True)
    class Local(Any_):
        pass

    with pytest.raises(ConfigError, match="cannot be sent to worker processes"):
        load_steps([Local()])


def test_a_step_whose_settings_are_not_json_is_refused() -> None:
    @dataclass(frozen=True)
    class Strange(Any_):
        what: object = field(default_factory=object)

    with pytest.raises(ConfigError, match="its settings cannot be recorded"):
        load_steps([Strange()])


def test_modules_of_the_current_folder_are_found_and_do_not_hide_others(tmp_path: Path) -> None:
    (tmp_path / "my_steps.py").write_text("import json\nfrom tests.steps import Light\nassert json.loads('1') == 1\n")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    code = (
        "import sys; sys.path.remove('')\n"
        "from avdata.prepare.steps.registry import load_steps\n"
        "print(load_steps(['my_steps:Light']))\n"
        "load_steps(['broken:Step'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "(Light(least=0.0),)\n", done.stderr
    assert "its module cannot be imported (ZeroDivisionError: division by zero)" in done.stderr
