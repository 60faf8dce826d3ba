"""What signatures say is checked at each call, with and without shapes; as is the code that the tests import."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ForwardRef, Literal

import jaxtyping
import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Float

from avmodel.masking import gather_visible
from tests.shape_checks import JAXTYPED, checked, parts_of

Rows = Float[np.ndarray, "n d"]
Row = Float[np.ndarray, " d"]
check = partial(checked, typechecker=beartype)
A, B = np.zeros((2, 3)), np.zeros(3)


@check
@dataclass(frozen=True, slots=True)
class Pair:
    rows: Rows
    row: Row

    @property
    @check
    def sums(self) -> int:
        return self.row.sum()  # a float

    @classmethod
    @check
    def of(cls, rows: Rows, row: Row) -> Rows:
        return rows @ row


@check
def plain(count: int, names: Sequence[str] = ()) -> str:
    return names[0] if names else "none" if count else None


@check
def added(rows: Rows, row: Row) -> Rows:
    return rows + row if row[0] == 0 else rows[0]


@check
def one_of(rows: list[Rows], row: Row | None = None) -> Rows:
    return rows[0]


@check
def first(rows: Rows, count: int) -> Float[np.ndarray, "{count} d"]:
    return rows[:1]


@check
def each(rows: Rows, row: Row) -> Iterator[Row]:
    yield from rows


@check
def outer(rows: Rows, row: Row) -> Rows:
    return inner(rows.T).T


@check
def inner(rows: Rows) -> Rows:  # its n is not the caller's
    return rows


def test_what_the_signature_allows_is_computed() -> None:
    assert plain(1) == "none"
    assert plain(0, ["a"]) == "a"
    assert added(A, B).shape == (2, 3)
    assert one_of([A]) is A
    assert first(A, 1).shape == (1, 3)
    assert [row.shape for row in each(A, B)] == [(3,), (3,)]
    assert outer(A, B).shape == (2, 3)
    assert Pair(A, B).rows is A


@pytest.mark.parametrize(
    "call",
    [
        partial(plain, "1"),
        partial(plain, 0, "abc".split),
        partial(plain, 0),  # returns None
        partial(added, A, np.zeros(2)),
        partial(added, A, np.zeros(3, np.int64)),
        partial(added, A, np.ones(3)),  # returns a row
        partial(one_of, [A], np.zeros(2)),
        partial(one_of, [B]),
        partial(first, A, 2),  # returns one
        partial(each, A, np.zeros(2)),
        partial(Pair, A, np.zeros(2)),
        partial(Pair.of, A, B),  # returns a row
        lambda: Pair(A, B).sums,
        lambda: gather_visible(torch.zeros(2, 4, 3), torch.zeros(3, 2, dtype=torch.int64)),  # batches of 2 and of 3
    ],
)
def test_what_it_forbids_is_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_the_axes_are_printed_with_what_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        added(A, np.zeros(2))
    assert "n=2" in (said := capsys.readouterr().out)
    assert "d=3" in said


@pytest.mark.parametrize("call", [partial(plain, "1"), partial(added, A, np.ones(3))])
def test_nothing_is_checked_while_jaxtyping_is_disabled(call: Callable[[], Any]) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        call()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_a_hint_that_is_a_string_is_left_to_the_library() -> None:
    def later(rows: "Rows", others: tuple["Unknown", ...]) -> "Rows":  # type: ignore[name-defined]
        return rows

    assert check(later)(A, (1,)) is A
    with pytest.raises(jaxtyping.TypeCheckError):
        check(later)(B, (1,))


def test_hints_are_found_at_any_depth() -> None:
    hint = dict[str, tuple[Rows, ...] | Callable[[Row, "Later"], Annotated[Literal["a"], "a {name}"]]]  # type: ignore[name-defined]
    found = parts_of(hint)
    assert found[0] is hint
    assert Rows in found
    assert Row in found
    assert [part for part in found if isinstance(part, str | ForwardRef)] == ["Later"]


def test_the_import_hook_takes_it() -> None:
    assert jaxtyping.jaxtyped is checked
    assert JAXTYPED is not checked
