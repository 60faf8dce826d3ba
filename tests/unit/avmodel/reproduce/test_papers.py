"""The files of the papers' tables: complete, typed, and of commands that exist."""

import math
from collections.abc import Iterator

import pytest
import typer

from avcli.main import app
from avmanifest.errors import ConfigError
from avmanifest.recipe import load_recipe
from avmanifest.settings import override
from avmodel.evaluate.tasks import task_config
from avmodel.reproduce.paper import PAPERS, Paper, Row, Source, Table, paper_of, printed, read_paper, read_tiny
from avmodel.reproduce.plan import PAPER, TINY, evaluate_settings, make_plan, pretrain_config
from avmodel.reproduce.report import setting_of

# Rows of each table, by its number, as the papers print them.
ROWS = {
    "deepavfusion": {
        "1": 7, "2": 4, "3": 2, "4": 4, "5": 6, "6": 3, "7a": 6, "7b": 4, "7c": 3, "figure 3": 1,
    },
    "avsiam": {
        "1": 14, "2": 3, "3a": 2, "3b": 3, "4": 11, "5": 2, "6": 2, "7": 2, "8": 3, "9": 6, "10": 5, "11": 5,
        "figure 4": 1,
    },
    "crossmae": {"1": 10, "3": 7, "4": 4, "5": 7, "6": 4, "7": 4, "figure 3": 1},
    "cav-mae": {"classification": 1, "logs": 2, "retrieval": 2, "missing": 1, "sync": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", PAPERS)
def test_every_row_of_every_table_has_an_entry(name: str) -> None:
    tables = read_paper(name).tables
    assert {table.number: len(table.rows) for table in tables} == ROWS[name]
    for table in tables:
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names), table.number
        columns = [column.name for column in table.columns]
        assert len(set(columns)) == len(columns), table.number


@pytest.mark.parametrize("name", PAPERS)
def test_every_number_is_one_or_none(name: str) -> None:
    for table, row in rows_of(read_paper(name)):
        assert len(row.paper) == len(table.columns) == len(row.sources)
        assert all(math.isnan(number) or math.isfinite(number) for number in row.paper)
        assert not row.paper or not all(map(math.isnan, row.paper)), (table.number, row.name)


@pytest.mark.parametrize("name", PAPERS)
def test_a_number_that_cannot_be_had_has_a_reason_in_a_sentence(name: str) -> None:
    for _, row in rows_of(read_paper(name)):
        for source in row.sources:
            if source.cannot:
                assert source.cannot[0].isupper() or source.cannot.startswith("avkit")
                assert source.cannot.endswith(".")
                assert len(source.cannot) > 30


@pytest.mark.parametrize("name", PAPERS)
def test_nothing_stands_in_the_file_that_no_row_uses(name: str) -> None:
    paper = read_paper(name)
    sources = [(row, source) for _, row in rows_of(paper) for source in row.sources if not source.cannot]
    models = {row.model for row, source in sources if source.evaluate or source.measure} | {
        row.model for _, row in rows_of(paper) if row.also
    }
    evaluations = {source.evaluate for _, source in sources} | {name for _, row in rows_of(paper) for name in row.also}
    data = {name for key in models for name in paper.models[key].data if key in paper.models}
    data |= {one.data for key, one in paper.evaluations.items() if key in evaluations}
    assert set(paper.models) == models
    assert set(paper.evaluations) == evaluations - {""}
    assert set(paper.benches) == {source.bench for _, source in sources} - {""}
    assert set(paper.data) == data | {one.train for one in paper.evaluations.values()} - {""}


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("tiny", [None, read_tiny()], ids=["paper", "tiny"])
def test_every_preset_and_setting_exists(name: str, tiny: object) -> None:
    paper = read_paper(name)
    for data in paper.data.values():
        load_recipe(data.recipe)
    for key, model in paper.models.items():
        pretrain_config(key, model, tiny)  # type: ignore[arg-type]
    for evaluation in paper.evaluations.values():
        config = task_config(evaluation.task, evaluation.preset or None)
        override(config, evaluate_settings(evaluation, tiny))  # type: ignore[arg-type]
    for _, row in rows_of(paper):
        for source in row.sources:
            if source.setting:
                assert math.isfinite(setting_of(source))


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("scale", [TINY, PAPER])
def test_every_command_is_one_of_avkits(name: str, scale: str, tmp_path) -> None:
    paper = read_paper(name)
    group = typer.main.get_command(app)
    plan = make_plan(paper, paper.tables, scale, tmp_path)
    assert len({step.name for step in plan.steps}) == len(plan.steps)
    assert len({step.out for step in plan.steps}) == len(plan.steps)
    for step in plan.steps:
        at, words = group, list(step.words)
        while hasattr(at, "commands"):
            at = at.commands[words.pop(0)]
        at.make_context(words[0] if words else "bench", words)


@pytest.mark.parametrize("name", PAPERS)
def test_every_batch_divides_among_the_cards_of_the_estimates(name: str) -> None:
    for key, model in read_paper(name).models.items():
        assert pretrain_config(key, model, None)[0].batch_size % 8 == 0, key


def test_a_tables_own_numbers_are_found_in_its_presets() -> None:
    for name in PAPERS:
        for table, row in rows_of(read_paper(name)):
            for source, number in zip(row.sources, row.paper, strict=True):
                if source.setting:
                    assert setting_of(source) == pytest.approx(number), (name, table.number, row.name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": 3}, r"x\.toml: tables must each be opened by \[\[tables\]\]"),
        ({"titel": "x"}, r"x\.toml: unknown key 'titel'; known: name, title"),
        ({"data": {"a": {"recipe": 3}}}, r"data\.a: recipe must be text, not 3"),
        ({"models": {"m": {"data": ["b"]}}}, r"models\.m: no data 'b'; known: a"),
        ({"models": {"m": {"data": "a"}}}, r"models\.m: data must be a list of texts, not 'a'"),
        ({"evaluations": {"e": {"task": "knn", "data": "c"}}}, r"evaluations\.e: no data 'c'"),
        ({"row": {"paper": [1.0, 2.0]}}, r"paper has 2 numbers for 1 column\."),
        ({"row": {"paper": ["1"]}}, r"paper must be a list of numbers"),
        ({"row": {"paper": [True]}}, r"paper must be a list of numbers"),
        ({"row": {"model": "n"}}, r"no model 'n'; known: m"),
        ({"row": {"evaluate": "f"}}, r"no evaluate 'f'; known: e"),
        ({"row": {"cells": {"B": {"cannot": "No."}}}}, r"no column 'B'; known: A"),
        ({"row": {"cells": {"A": {"colour": "red"}}}}, r"unknown key 'colour'"),
        ({"row": {"measure": "hours"}}, r"needs one of evaluate, measure, setting, bench and cannot, not"),
        ({"row": {"of": "winners"}}, r"of='winners': give scores or baselines"),
        ({"row": {"evaluate": "", "measure": "weight"}}, r"unknown measure 'weight'; known: parameters_m"),
        ({"row": {"evaluate": "", "setting": "epochs"}}, r"setting=epochs needs the preset that has it"),
        ({"row": {"also": ["g"]}}, r"no evaluation 'g'"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        paper_of("x", content_with(change), "x.toml")


def test_fields_of_a_cell_take_the_place_of_its_rows_and_columns() -> None:
    change = {"score": "r", "cells": {"A": {"score": "c", "of": "baselines"}}}
    paper = paper_of("x", content_with({"row": change}), "x.toml")
    assert paper.tables[0].rows[0].sources == (Source(evaluate="e", score="c", of="baselines"),)


def test_tables_and_rows_are_chosen_by_name() -> None:
    paper = read_paper("deepavfusion")
    [table] = paper.chosen(["5"], ["late fusion"])
    assert [row.name for row in table.rows] == ["late fusion"]
    with pytest.raises(ConfigError, match=r"deepavfusion has no table '8'; known: 1, 2, 3"):
        paper.chosen(["8"], [])
    with pytest.raises(ConfigError, match=r"no row 'early' in the chosen tables; known: DeepAVFusion, without"):
        paper.chosen(["5"], ["early"])
    with pytest.raises(ConfigError, match=r"unknown paper 'mae'; did you mean cav-mae\? known: deepavfusion, avsiam"):
        read_paper("mae")


def test_numbers_are_printed_without_needless_digits() -> None:
    assert [printed(x) for x in (53.0, 35.2, 0.1, math.nan)] == ["53", "35.2", "0.1", "-"]


def rows_of(paper: Paper) -> Iterator[tuple[Table, Row]]:
    return ((table, row) for table in paper.tables for row in table.rows)


def content_with(change: dict) -> dict:
    """A file's content with one row, changed."""
    content = {
        "title": "X",
        "citation": "X.",
        "data": {"a": {"recipe": "folder"}},
        "models": {"m": {"data": ["a"], "preset": "demo"}},
        "evaluations": {"e": {"task": "knn", "data": "a"}},
    }
    row = {"name": "r", "paper": [1.0], "model": "m"} | change.pop("row", {})
    columns = [{"name": "A", "evaluate": "e"}]
    content["tables"] = [{"number": "1", "title": "T", "columns": columns, "rows": [row]}]
    return content | change
