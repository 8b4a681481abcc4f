"""Questions to many runs at once: what is read, kept, joined, grouped and written."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interp.results as results
from interp.errors import InputError, StoreError
from interp.results import index, query
from interp.results.index import refresh
from interp.stats import cluster_bootstrap


def make_cell(store: Path | str, config: dict, **tables: list[dict]) -> str:
    """Write a cell into a sweep store; return its key."""
    identity = {"experiment": "toy", "config": config, "subject": {}, "code": "c0de"}
    key = results.cell_key(identity)
    assert results.Cells.open(store, write=True).write(key, identity, tables, {"seconds": 1.0})
    return key


def make_sweep(store: Path | str, name: str, keys: list[str], unit: str | None = None) -> Path:
    plan = {"name": name, "experiment": "toy", "unit": unit, "keys": keys, "configs": []}
    results.Files.open(store).put(f"sweeps/{name}/sweep.json", json.dumps(plan).encode())
    return Path(store) / "sweeps" / name


def make_run(folder: Path, settings: dict, model: str, *cells: dict[str, list[dict]]) -> Path:
    manifest = results.collect(
        experiment="toy",
        settings=settings,
        model={"name": model},
        data={},
        seeds=[0],
        device="cpu",
        code="c0de",
    )
    run, order = results.Store.begin(folder, manifest), []
    for i, tables in enumerate(cells):
        identity = {"cell": i}
        order.append(results.cell_key(identity))
        run.write(order[-1], identity, tables, {})
    run.update_manifest(order=order)
    return folder


def steps(*values: float | None, **more: object) -> list[dict]:
    return [{"id": "abcdefgh"[i], "tts": value, **more} for i, value in enumerate(values)]


@pytest.fixture
def store(tmp_path) -> Path:
    """Two models in two sweeps of one store, which share the second cell."""
    path = tmp_path / "store"
    keys = [
        make_cell(path, {"model": model, "seed": seed}, steps=steps(*values))
        for model, seed, values in (
            ("m2", 0, (0.5, 0.25)),
            ("m1", 0, (0.75, None)),
            ("m1", 1, (1.0,)),
        )
    ]
    make_sweep(path, "first", keys[:2], unit="id")
    make_sweep(path, "second", keys[1:], unit="id")
    return path


def said(error: pytest.ExceptionInfo) -> str:
    return str(error.value)


# ---------------------------------------------------------------- reading


def test_rows_of_a_sweep_come_with_what_identifies_them_in_the_order_of_its_cells(store):
    frame = results.frame(store / "sweeps" / "first", "steps")
    assert list(frame.columns) == ["run", "cell", "model", "seed", "id", "tts"]
    assert frame["run"].unique().tolist() == ["first"]
    assert frame[["model", "seed", "id"]].values.tolist() == [
        ["m2", 0, "a"], ["m2", 0, "b"], ["m1", 0, "a"], ["m1", 0, "b"]
    ]  # fmt: skip
    assert frame["tts"].tolist()[:3] == [0.5, 0.25, 0.75] and np.isnan(frame["tts"][3])
    assert frame.attrs["unit"] == "id"
    for keys in (frame["cell"].unique().tolist(), frame["cell"].unique().tolist()[::-1]):
        again = results.frame(make_sweep(store, "again", keys))
        assert again["cell"].unique().tolist() == keys


def test_a_cell_of_two_sweeps_is_read_once_and_names_both(store):
    whole = results.frame(store)
    both = results.frame([store / "sweeps" / "first", str(store / "sweeps" / "second"), store])
    assert whole["run"].tolist() == ["first"] * 2 + ["first+second"] * 2 + ["second"]
    assert both.drop(columns="cell").equals(whole.drop(columns="cell"))


def test_a_cell_of_no_sweep_carries_the_name_of_the_store(store):
    make_cell(store, {"model": "m3", "seed": 0}, steps=steps(0.1))
    assert results.frame(store)["run"].tolist()[-1] == "store"
    assert len(results.frame(str(store / "sweeps" / "*"))) == 5


def test_a_store_in_a_bucket_reads_as_its_copy_in_a_folder(bucket, tmp_path, show):
    for address in (bucket, tmp_path / "store"):
        keys = [make_cell(address, {"seed": seed}, steps=steps(0.5, seed / 4)) for seed in range(4)]
        make_sweep(address, "one", keys[2:0:-1], unit="id")
        make_sweep(address, "two", keys[1:2], unit="id")
        results.Files.open(address).put("sweeps/no_sweep/failures/f.json", b"{}")
    there, here = results.frame(bucket), results.frame(tmp_path / "store")
    assert there["run"].tolist() == ["one"] * 2 + ["one+two"] * 2 + ["store"] * 4
    assert there["seed"].tolist()[:4] == [2, 2, 1, 1]
    assert there.equals(here) and there.attrs == here.attrs
    assert results.frame([bucket, Path(bucket + "/")]).equals(here)  # pathlib leaves one slash
    two = results.frame(f"{bucket}/sweeps/two")
    assert (two["run"].tolist(), two["seed"].tolist()) == (["two"] * 2, [1, 1])
    lines = show(bucket)[1].splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["one", "steps", "2"], ["one+two", "steps", "2"], ["store", "steps", "4"]
    ]  # fmt: skip
    results.Files.open(bucket).put("sweeps/two/sweep.json", b"")
    with pytest.raises(
        StoreError, match=rf"^{bucket}/sweeps/two/sweep\.json is damaged or no sweep"
    ):
        query.read(bucket)


def test_packed_and_loose_cells_read_the_same(store):
    loose = results.frame(store)
    assert refresh(store) == 3
    make_cell(store, {"model": "m0", "seed": 9}, steps=steps(0.0))
    assert results.frame(store, where="model <> 'm0'").equals(loose)


def test_a_run_gives_its_settings_and_model(tmp_path):
    run = make_run(
        tmp_path / "r", {"seeds": 2, "rules": {"cue": "="}}, "m1", {"steps": steps(0.5, seed=7)}
    )
    (row,) = results.frame(run).to_dict("records")
    key = row.pop("cell")
    assert key == results.cell_key({"cell": 0})
    assert row == {
        "run": "r", "model": "m1", "rules": '{"cue":"="}', "seeds": 2,
        "id": "a", "tts": 0.5, "seed": 7,
    }  # fmt: skip


def test_a_configuration_gives_way_to_a_column_of_the_table(tmp_path):
    run = make_run(
        tmp_path / "r", {"TTS": 3, "run": "x"}, "m1", {"t": [{"tts": 0.5, "cell": "s1c1"}]}
    )
    frame = results.frame(run)
    assert list(frame.columns) == [
        "run", "config.cell", "config.TTS", "model", "config.run", "tts", "cell"
    ]  # fmt: skip
    assert frame["cell"].tolist() == ["s1c1"] and frame["config.run"].tolist() == ["x"]
    assert len(results.frame(run, where="\"config.TTS\" = 3 and cell = 's1c1'")) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_column_cell_is_not_taken_for_another(store, packed):
    """Only the first cell has a column `cell`; names that look like a renamed one stay."""
    own = [{"cell": "s1c1", "n": 1}], [{"cell_": "x", "n": 2}], [{"cell__": "y", "cell_": "z"}]
    keys = [make_cell(store, {"i": i}, audit=rows) for i, rows in enumerate(own)]
    if packed:
        assert refresh(store) == 6
    rows = query.read(make_sweep(store, "audit", keys)).select("audit")
    assert rows.drop_columns(["run", "i"]).to_pydict() == {
        "config.cell": keys, "cell": ["s1c1", None, None], "n": [1, 2, None],
        "cell_": [None, "x", "z"], "cell__": [None, None, "y"],
    }  # fmt: skip
    table = index.table(store, "audit", keys)  # one table, so the key needs the name
    assert table["cell"].to_pylist() == keys
    assert table["cell___"].to_pylist() == ["s1c1", None, None]


def test_a_column_cell_of_several_stores_stays_one_column(tmp_path, store):
    run = make_run(tmp_path / "r", {}, "m", {"audit": [{"cell": "a", "cell_": "b"}]})
    make_cell(store, {"i": 0}, audit=[{"cell": "c"}])
    rows = query.read([run, store]).select("audit").select(["cell", "cell_"])
    assert rows.to_pydict() == {"cell": ["a", "c"], "cell_": ["b", None]}


def test_runs_of_one_name_are_told_apart_and_mixed_with_sweeps(tmp_path, store):
    a = make_run(tmp_path / "a" / "run", {"x": 1}, "m1", {"steps": steps(0.5)})
    b = make_run(tmp_path / "b" / "run", {"x": 0.5}, "m2", {"steps": steps(1)})
    frame = results.frame([a, b, store / "sweeps" / "first"], "steps")
    assert frame["run"].tolist() == ["a/run", "b/run"] + ["first"] * 4
    assert frame["x"].tolist()[:2] == [1.0, 0.5] and frame["x"].isna().sum() == 4
    assert frame["tts"].tolist()[:2] == [0.5, 1.0]  # whole numbers beside floats are floats


def test_whole_numbers_and_booleans_with_gaps_keep_their_kind(tmp_path):
    rows = [{"n": 2**60 + 1, "ok": True}, {"n": None, "ok": None}]
    frame = results.frame(make_run(tmp_path / "r", {}, "m", {"t": rows}))
    assert frame["n"].tolist() == [2**60 + 1, pd.NA]
    assert frame["ok"].tolist() == [True, pd.NA]


def test_types_that_do_not_fit_together_are_named(tmp_path):
    a = make_run(tmp_path / "a", {}, "m", {"t": [{"x": 1}]})
    b = make_run(tmp_path / "b", {}, "m", {"t": [{"x": "one"}]})
    with pytest.raises(StoreError) as error:
        results.frame([a, b])
    assert said(error) == (
        f"Column 'x' of table 't' is int64 in {a} and string in {b}: "
        "read the two apart, or make one of them again."
    )


def test_sources_that_are_none_are_refused(tmp_path, store):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad" / "sweeps" / "s").mkdir(parents=True)
    (tmp_path / "bad" / "sweeps" / "s" / "sweep.json").write_text("{")
    for path, sentence in (
        (tmp_path / "no", "it is not a folder. Check the path."),
        (tmp_path / "file", "it is not a folder. Check the path."),
        (tmp_path / "empty", "it has no manifest.json, sweep.json or cells. Check the path."),
        (
            store / "sweeps",
            f"it is a folder of runs (first, second). Give {store}/sweeps/* for all.",
        ),
        (tmp_path / "x*", "no folder matches. Check the pattern."),
    ):
        with pytest.raises(StoreError) as error:
            query.read(path)
        assert said(error) == f"There is no run at {path}: {sentence}"
    with pytest.raises(StoreError, match=r"s/sweep\.json is damaged or no sweep's \(Expecting "):
        query.read(tmp_path / "bad" / "sweeps" / "s")
    with pytest.raises(InputError, match=r"^No source is named: give the folder of a run"):
        query.read([])


def test_an_unknown_table_is_refused(store, tmp_path):
    with pytest.raises(InputError) as error:
        results.frame(store, "stesp")
    assert said(error) == (
        "The cells of first, second, store have no table 'stesp'; they have: steps. "
        "Did you mean 'steps'?"
    )
    run = make_run(tmp_path / "r", {}, "m", {"a": steps(1.0), "b": steps(1.0)})
    with pytest.raises(InputError) as error:
        results.frame(run)
    assert said(error) == f"The run {run} has several tables or none: a, b. Name one."


def test_cells_that_are_not_there_are_said(store, tmp_path):
    gone = results.cell_key({"gone": 1})
    sweep = make_sweep(store, "third", [gone])
    assert query.read(sweep).missing() == [
        f"1 of the 1 cells of the sweep {sweep} are not there (to do, failed or damaged) and not "
        "shown; start the sweep again to make them, with --retry-failed for those that failed."
    ]
    assert query.read(store / "sweeps" / "first").missing() == []


# ---------------------------------------------------------------- conditions


ROWS = pa.table(
    {
        "id": ["a", "b", "c"],
        "tts": [0.5, 0.25, None],
        "config.model": ["x;y", "x", None],
        "n": [1, 2, 3],
    }
)


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("tts > 0.3", "a"),
        ("tts > 0.3 or n = 3 -- a comment", "ac"),
        ("\"config.model\" = 'x;y'", "a"),
        ("tts is null", "c"),
        ("n in (1, 2) and id like '%b%'", "b"),
        ("n > (select avg(n) from rows)", "c"),
        ("n > 9", ""),
    ],
)
def test_a_condition_keeps_rows_in_their_order(where, ids):
    assert "".join(query.keep(ROWS, where)["id"].to_pylist()) == ids
    assert query.keep(ROWS, where).schema == ROWS.schema


COLUMNS = "id, tts, config.model, n"
EXAMPLE = "Write one such as model = 'tiny-llama' and tts > 0.1."


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("tss > 1", f"The records have no column 'tss'; there are: {COLUMNS}. Did you mean 'tts'?"),
        (
            'id = "a"',
            f"The records have no column 'a'; there are: {COLUMNS}. "
            "If it is text, write it in single quotes: 'a'.",
        ),
        (
            "config.model = 'x'",
            f"There is no column of 'config'; there are: {COLUMNS}. "
            'Write a name with a dot in double quotes: "config.model".',
        ),
        ("n > 1;", f"'n > 1;' holds a ';', and a condition is one expression. {EXAMPLE}"),
        ("n; drop", f"'n; drop' holds a ';', and a condition is one expression. {EXAMPLE}"),
        (
            "n > 'many'",
            "The condition \"n > 'many'\" cannot be worked out: Could not convert string 'many' to "
            f"INT64. The columns are: {COLUMNS}.",
        ),
    ],
)
def test_a_condition_that_cannot_be_worked_out_gets_a_sentence(where, sentence):
    with pytest.raises(InputError) as error:
        query.keep(ROWS, where)
    assert said(error) == sentence


@pytest.mark.parametrize(
    "where",
    [
        "", "-- nothing", "drop table rows", "select 1", "from rows", "values (true)",
        "n > 1 order by n",
        "n > 1) union select (1", "true) or (true", "n > 1 limit 1", "n, id", "n > 1 /*", "n >",
        "copy rows to 'x.csv'", "attach 'x.db' as x", "set threads = 2", "n = 1 from rows",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused(where):
    with pytest.raises(InputError, match=r" is no condition in SQL: .*\. Write one such as model"):
        query.keep(ROWS, where)


def test_a_condition_reaches_no_file(tmp_path):
    path = tmp_path / "secret.csv"
    path.write_text("a\n1\n")
    for source in (
        f"read_csv('{path}')",
        f"read_text('{path}')",
        f"glob('{tmp_path}/*')",
        f"'{path}'",
    ):
        with pytest.raises(InputError, match=r"reaches for a file, and a condition sees the col"):
            query.keep(ROWS, f"exists (select * from {source})")
    secret = pa.table({"a": [1]})  # a variable of the caller is no table
    with pytest.raises(InputError, match="cannot be worked out: Table with name secret does not"):
        query.keep(ROWS, "exists (select * from secret)")
    assert secret.num_rows == 1


def test_columns_that_differ_in_capitals_are_not_confused():
    with pytest.raises(InputError, match=r"^The columns 'A' and 'a' differ in capitals only, "):
        query.keep(pa.table({"A": [1], "a": [2]}), "a > 1")


def test_columns_are_picked_and_unknown_ones_refused(store):
    frame = results.frame(store, columns=["tts", "model"], where="seed = 1")
    assert frame.to_dict("records") == [{"tts": 1.0, "model": "m1"}]
    with pytest.raises(InputError) as error:
        results.frame(store, columns=["modle"])
    assert said(error) == (
        "The records have no column 'modle'; there are: id, tts, run, cell, model, seed. "
        "Did you mean 'model'?"
    )


# ---------------------------------------------------------------- join


def test_a_join_puts_rows_beside_each_other_and_counts_those_without_a_partner():
    left = pa.table({"id": ["b", "a", "a", None], "tts": [1, 2, 3, 4]})
    right = pa.table({"id": ["a", "c", None], "tts": [10, 20, 30], "OTHER.tts": [0, 1, 2]})
    joined = query.join(left, right, on=["id"])
    assert joined.to_pylist() == [
        {"id": "a", "tts": 2, "other.tts": 10, "other.OTHER.tts": 0},
        {"id": "a", "tts": 3, "other.tts": 10, "other.OTHER.tts": 0},
    ]
    assert query.notes(joined) == [
        "2 of the 4 first records have no partner and are left out.",
        "2 of the 3 second records have no partner and are left out.",
    ]
    frames = query.join(left.to_pandas(), right.to_pandas(), on=["id"])
    assert isinstance(frames, pd.DataFrame) and frames["other.tts"].tolist() == [10, 10]


def test_joins_that_mean_nothing_are_refused():
    left = pa.table({"id": ["a", "a"], "x": [1, 2]})
    with pytest.raises(InputError) as error:
        query.join(left, left, on=["id"])
    assert said(error) == (
        "A join on id pairs several rows with several, such as those of a: "
        "name more columns, or group one side first."
    )
    with pytest.raises(InputError, match=r"^The second records of the join have no column 'x'; "):
        query.join(left, left.select(["id"]), on=["x"])
    with pytest.raises(InputError, match=r"^A join needs columns that both sides have"):
        query.join(left, left, on=[])
    with pytest.raises(InputError, match=r"^The two sides cannot be compared on id: "):
        query.join(left, pa.table({"id": [1]}), on=["id"])


# ---------------------------------------------------------------- group


def test_a_group_by_hand():
    """Model y: 0.5, 0.25 of unit a, 1 of b. Model x: one value of a, one NaN, one empty."""
    table = pa.table(
        {
            "model": ["y", "x", "y", "x", "y", "x"],
            "id": ["a", "a", "a", "b", "b", "c"],
            "tts": [0.5, 0.75, 0.25, float("nan"), 1.0, None],
        }
    )
    asked = {"mean": ["tts"], "median": ["tts"], "max": ["tts"], "min": ["tts"], "count": ["id"]}
    y, y_id, x, x_id = query.group(table, asked, by=["model"]).to_pylist()
    interval = cluster_bootstrap([0.5, 0.25, 1.0], ["a", "a", "b"])
    assert y == {
        "model": "y", "column": "tts", "mean": 1.75 / 3, "low": interval.low, "high": interval.high,
        "median": 0.5, "max": 1.0, "min": 0.25, "count": 3, "units": 2, "missing": 0, "unit": "id",
    }  # fmt: skip
    assert (interval.low, interval.high) == (0.375, 1.0)  # only a, only b
    assert (x["mean"], x["low"], x["median"], x["count"], x["units"]) == (0.75, None, 0.75, 1, 1)
    assert x["missing"] == 2
    (finite,) = query.group(pa.table({"v": [1.0, np.inf, np.nan]}), {"max": ["v"]}).to_pylist()
    assert (finite["max"], finite["count"], finite["missing"]) == (1.0, 1, 2)
    assert (y_id["column"], y_id["count"], y_id["mean"], x_id["count"]) == ("id", 3, None, 3)


def test_the_unit_is_the_experiments_or_id_or_the_row(store):
    frame = results.frame(store)
    frame.attrs["unit"] = "seed"
    assert query.group(frame, {"mean": ["tts"]})["unit"].tolist() == ["seed"]
    assert query.group(frame, {"mean": ["tts"]}, unit="id")["units"].tolist() == [2]
    frame.attrs["unit"] = "gone"
    assert query.group(frame, {"mean": ["tts"]})["unit"].tolist() == ["id"]
    alone = query.group(pa.table({"tts": [0.0, 1.0]}), {"mean": ["tts"]})
    assert (alone["unit"].to_pylist(), alone["units"].to_pylist()) == (["row"], [2])
    assert query.notes(alone) == [
        "The records name no unit, so the unit of the intervals is the row: name another.",
        "1 of 1 intervals rest on fewer than 20 units (the least: 2): "
        "they are probably too narrow.",
    ]
    many = query.group(pa.table({"tts": [0.0, 1.0] * 10}), {"mean": ["tts"]}, unit="row")
    assert query.notes(many) == ["The unit of the intervals is the row."]


def test_groups_without_a_statistic_are_counted_and_names_give_way():
    table = pa.table({"count": [2, None, 2], "ok": [True, False, None]})
    assert query.group(table, {}, by=["count"]).to_pylist() == [
        {"by.count": 2, "column": "*", "count": 2, "units": 2, "missing": 0, "unit": "row"},
        {"by.count": None, "column": "*", "count": 1, "units": 1, "missing": 0, "unit": "row"},
    ]
    both = query.group(table.append_column("by.count", [[1, 1, 1]]), {}, by=["count", "by.count"])
    assert both.column_names[:2] == ["by.count", "by.by.count"]
    (share,) = query.group(table, {"mean": ["ok"]}).to_pylist()
    assert (share["mean"], share["count"], share["missing"]) == (0.5, 2, 1)
    assert query.group(table.slice(0, 0), {"mean": ["ok"]}, by=["count"]).num_rows == 0


def test_groups_that_cannot_be_made_are_refused():
    for arguments, sentence in (
        (({"maen": ["tts"]},), "There is no statistic 'maen'; there are: mean, median, max, min, "),
        (({"mean": ["tt"]},), "The records have no column 'tt'; there are: id, tts, "),
        (({"mean": ["id"]},), "Column 'id' holds string and no numbers, so it has no mean: count "),
    ):
        with pytest.raises(InputError) as error:
            query.group(ROWS, *arguments)
        assert said(error).startswith(sentence)
    with pytest.raises(InputError, match=r"^The records have no column 'ids'; .* mean 'id'\?$"):
        query.group(ROWS, {"mean": ["tts"]}, unit="ids")
    with pytest.raises(InputError, match=r"^level is 95.0: it is a share above 0 and below 1"):
        query.group(ROWS, {"mean": ["tts"]}, level=95.0)
    with pytest.raises(InputError, match=r"^1 rows have a value and no 'id', so their unit is unk"):
        query.group(pa.table({"id": ["a", None], "tts": [1, 2]}), {"mean": ["tts"]})


values = st.none() | st.floats(-10, 10)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("abcd"), values), max_size=25))
@settings(deadline=None, derandomize=True, max_examples=12)
def test_groups_agree_with_pandas_and_lose_no_row(rows):
    """pandas is the judge; 1e-12 is the rounding of sums in another order."""
    frame = pd.DataFrame(rows, columns=["g", "id", "v"]).astype({"v": float, "g": str, "id": str})
    got = query.group(frame, {k: ["v"] for k in query.STATISTICS}, by=["g"]).set_index("g")
    grouped = frame.groupby("g")["v"]
    assert (got["count"] + got["missing"]).sum() == len(rows)
    for kind in query.STATISTICS:
        judge = getattr(grouped, kind)().reindex(got.index)
        np.testing.assert_allclose(got[kind].astype(float), judge, rtol=0, atol=1e-12)
    assert list(got.index) == list(dict.fromkeys(frame["g"]))


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(-5, 5)), max_size=20))
@settings(deadline=None, derandomize=True, max_examples=12)
def test_a_condition_and_its_opposite_part_the_rows(rows):
    table = pa.table({"a": pa.array([a for a, _ in rows], pa.int64()),
                      "b": pa.array([b for _, b in rows], pa.int64())})  # fmt: skip
    condition = "a > 1 and b > 0"
    kept = query.keep(table, condition).to_pylist()
    others = query.keep(table, f"({condition}) is not true").to_pylist()
    assert kept == [{"a": a, "b": b} for a, b in rows if a > 1 and b is not None and b > 0]
    assert len(kept) + len(others) == len(rows)


# ---------------------------------------------------------------- output


def test_latex_is_escaped_and_shows_intervals():
    table = pa.table(
        {"model": ["a_b & 50%", "[1]"], "mean": [-0.5, None], "low": [-1.0, None],
         "high": [1 / 3, None], "n": [3, -4]}
    )  # fmt: skip
    assert query.to_latex(table).splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"model & mean [low, high] & n \\",
        r"\midrule",
        r"a\_b \& 50\% & $-$0.5 [$-$1, 0.3333] & 3 \\",
        r"{}[1] & -- & $-$4 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    evil = query.to_latex(pa.table({"x": ["\\input{/etc/passwd}\n%^~#$"]}))
    assert r"\textbackslash{}input\{/etc/passwd\} \%\textasciicircum{}\textasciitilde{}\#\$" in evil


def test_a_file_is_written_whole_and_not_over_another(tmp_path):
    path = tmp_path / "x.parquet"
    query.write_file(path, query.to_parquet(ROWS))
    assert pq.read_table(path).equals(ROWS)
    with pytest.raises(InputError) as error:
        query.write_file(path, b"")
    assert said(error) == f"{path} exists: pick another name, or write over it with --force."
    assert pq.read_table(path).equals(ROWS)
    query.write_file(path, b"new", force=True)
    assert path.read_bytes() == b"new"
    with pytest.raises(InputError, match=r"cannot be written: No such file or directory\. Check"):
        query.write_file(tmp_path / "no" / "x", b"")


# ---------------------------------------------------------------- the command


@pytest.fixture
def show(capsys):
    """`show(path, "--mean", "tts")`: run the command; return its status and what it printed."""
    import interp.cli as cli

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main(["results", *map(str, words)])
        assert isinstance(stop.value.code, int)
        return stop.value.code, *capsys.readouterr()

    return run


def test_what_there_is_is_listed(show, store):
    status, out, err = show(store)
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[:4] == [
        ["run", "table", "rows"],
        ["first", "steps", "2"],
        ["first+second", "steps", "2"],
        ["second", "steps", "1"],
    ]
    assert out.splitlines()[4:] == [
        "Columns of every table: run, cell, model, seed.",
        "Columns of steps: id, tts.",
    ]
    rows = [json.loads(line) for line in show(store, "--format", "jsonl")[1].splitlines()]
    assert rows[0] == {"run": "first", "table": "steps", "rows": 2, "columns": "id, tts"}


def test_the_table_of_many_shows_what_tells_rows_apart(show, store):
    status, out, _ = show(store / "sweeps" / "first", "--table", "steps")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["model", "id", "tts"], ["m2", "a", "0.5"], ["m2", "b", "0.25"], ["m1", "a", "0.75"],
        ["m1", "b", "-"],
    ]  # fmt: skip
    text = show(store, "--table", "steps", "--format", "csv", "--where", "seed = 1")[1]
    (row,) = csv.DictReader(io.StringIO(text))
    assert row.pop("cell") and row == {
        "run": "second", "model": "m1", "seed": "1", "id": "a", "tts": "1.0"
    }  # fmt: skip


def test_groups_are_printed_with_their_warnings_below(show, store):
    words = (store, "--group", "model,seed", "--mean", "tts", "--level", 0.9)
    status, out, err = show(*words)
    assert (status, err) == (0, "")
    head, first, *_, unit, few, single = out.splitlines()
    assert head.split() == [
        "model", "seed", "column", "mean", "low", "high", "count", "units", "missing", "unit"
    ]  # fmt: skip
    assert first.split() == ["m2", "0", "tts", "0.375", "0.25", "0.5", "2", "2", "0", "id"]
    assert unit == "The unit of the intervals is id."
    assert few.startswith("1 of 3 intervals rest on fewer than 20 units (the least: 2)")
    assert single == "2 of 3 means rest on one unit: no interval."
    _, out, err = show(*words, "--format", "csv")
    assert "intervals" not in out and err.endswith(single + "\n")
    _, out, err = show(*words, "--format", "latex")
    assert out.endswith("% " + single + "\n") and err == ""
    assert r"m2 & 0 & tts & 0.375 [0.25, 0.5] & 2 & 2 & 0 & id \\" in out


def test_experiments_are_joined(show, store, tmp_path):
    run = make_run(tmp_path / "patch", {}, "m1", {"patch": [{"id": "a", "recovered": 0.5}]})
    words = ("--table", "steps", "--join", run, "--on", "model,id", "--where")
    status, out, err = show(store, *words, '"other.recovered" > tts - 1', "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["seed"], row["tts"], row["other.recovered"]) for row in rows] == [
        (0, 0.75, 0.5), (1, 1.0, 0.5)
    ]  # fmt: skip
    assert status == 0 and "3 of the 5 first records have no partner" in err


def test_an_empty_answer_is_said(show, store):
    for words in ((), ("--mean", "tts")):
        status, out, err = show(store, "--table", "steps", "--where", "tts > 7", *words)
        assert (status, out) == (0, "no rows\n")
        assert err == "interp: none of the 5 rows meets the condition.\n"


ALL = "or --format jsonl, csv or parquet"


def test_rows_printed_are_limited_and_the_rest_is_said(show, store):
    words = (store / "sweeps" / "first", "--table", "steps", "--limit", 2)
    status, out, err = show(*words)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()[1:-1]] == [
        ["m2", "a", "0.5"],
        ["m2", "b", "0.25"],
    ]
    assert out.splitlines()[-1] == (
        f"2 of the 4 rows are left out; for all, use --limit 4, {ALL} without --limit."
    )
    _, out, err = show(*words, "--format", "jsonl")
    assert [json.loads(line)["tts"] for line in out.splitlines()] == [0.5, 0.25]
    assert err == "2 of the 4 rows are left out; for all, leave out --limit.\n"
    assert "left out" not in "".join(show(*words[:-1], 4)[1:])
    _, out, err = show(*words, "--where", "model = 'm2'", "--format", "latex")
    assert "left out" not in out and err == ""
    for n in (0, -1):
        status, _, err = show(*words[:-1], n)
        assert (status, err) == (2, f"interp: --limit is {n}: it is a number of rows, from 1 up.\n")


def test_a_table_to_look_at_ends_at_1000_rows(show, tmp_path):
    """By hand: 1,003 rows are 3 too many for a table, and all come in other formats."""
    run = make_run(tmp_path / "r", {}, "m", {"t": [{"n": n} for n in range(1003)]})
    out = show(run, "--table", "t")[1].splitlines()
    assert [line.strip() for line in out[:2] + out[-2:]] == [
        "n", "0", "999",
        f"3 of the 1,003 rows are left out; for all, use --limit 1003, {ALL}.",
    ]  # fmt: skip
    assert len(show(run, "--table", "t", "--limit", 1003)[1].splitlines()) == 1004
    for format, lines in (("jsonl", 1003), ("csv", 1004)):
        _, out, err = show(run, "--table", "t", "--format", format)
        assert (len(out.splitlines()), err) == (lines, "")
    path = tmp_path / "t.parquet"
    show(run, "--table", "t", "--format", "parquet", "--to", path)
    assert pq.read_metadata(path).num_rows == 1003


def test_parquet_goes_to_a_file(show, store, tmp_path):
    path = tmp_path / "out.parquet"
    words = (store, "--table", "steps", "--format", "parquet")
    assert show(*words)[::2] == (
        2, "interp: Parquet is not text, so --format parquet needs --to FILE.\n"
    )  # fmt: skip
    assert show(*words, "--to", path) == (0, f"5 rows: {path}\n", "")
    assert pq.read_table(path)["tts"].to_pylist() == [0.5, 0.25, 0.75, None, 1.0]
    assert show(*words, "--to", path)[0] == 2
    assert show(*words, "--to", path, "--force")[0] == 0


def test_flags_that_do_nothing_are_refused(show, store, tmp_path):
    for words, sentence in (
        (("--unit", "id"), "--unit and --level are for groups: add --mean COLUMN."),
        (("--on", "id"), "--join and --on belong together: --join OTHER --on model,id."),
        (("--join-table", "t"), "--join-table names a table of --join OTHER, which is not given."),
    ):
        assert show(store, *words) == (2, "", f"interp: {sentence}\n")
    assert show(store, "--format", "xml")[0] == 2
    assert show()[0] == 2


def test_a_sweep_that_is_not_finished_exits_3(show, store):
    sweep = make_sweep(store, "third", [results.cell_key({"gone": 1})])
    status, _, err = show(sweep, store, "--table", "steps")
    assert status == 3
    assert err.startswith("interp: 1 of the 1 cells of the sweep ")


def test_no_part_of_this_needs_torch(store):
    code = (
        "import sys; sys.argv = ['interp', 'results', sys.argv[1], '--mean', 'tts']\n"
        "from interp.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "import interp.results; assert len(interp.results.frame(sys.argv[2])) == 5\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    code = code.replace("sys.argv[2]", repr(str(store)))
    done = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "The unit of the intervals is id." in done.stdout
