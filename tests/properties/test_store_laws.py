"""Laws of the store: what goes in comes out, in any order; any change of a byte is found."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from interp.results import Manifest, Store, cell_key, index
from interp.results.tables import as_table

LAW = settings(deadline=None, derandomize=True, max_examples=40)
FEW = settings(LAW, max_examples=15)  # each example waits for the disk many times

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = {"flag": st.booleans(), "count": integers, "effect": floats, "words": text}
COLUMNS = SCALARS | {
    "steps": st.lists(st.none() | floats, max_size=3),
    "tokens": st.lists(st.lists(integers, max_size=2), max_size=2),
    "about": st.builds(lambda a, b: {"a": a, "b": b}, st.none() | text, floats),
}
row = st.fixed_dictionaries({name: st.none() | values for name, values in COLUMNS.items()})
tables = st.lists(row, max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | integers | floats | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
identities = st.dictionaries(text, json_values, max_size=4)


@contextmanager
def new_store() -> Iterator[Store]:
    manifest = Manifest(
        experiment="laws",
        settings={},
        model={},
        data={},
        seeds=[],
        versions={},
        commit=None,
        device="cpu",
        threads=1,
        command=[],
        created="",
        code="",
    )
    with tempfile.TemporaryDirectory() as folder:
        yield Store.begin(Path(folder) / "run", manifest)


def put(store: Store, identity: dict, rows: list[dict]) -> str:
    key = cell_key(identity)
    store.write(key, identity, {"scores": rows}, {})
    return key


@LAW
@given(identities, tables)
def test_rows_and_identity_come_back_as_they_went_in(identity, rows):
    with new_store() as store:
        key = put(store, identity, rows)
        assert store.has(key)
        assert store.rows("scores") == rows
        assert store.cells()[0]["identity"] == identity


@FEW
@given(st.lists(tables, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_writing_does_not_matter(cells, rng):
    shuffled = rng.sample(range(len(cells)), len(cells))
    with new_store() as one, new_store() as two:
        keys = [put(one, {"i": i}, rows) for i, rows in enumerate(cells)]
        for i in shuffled:
            put(two, {"i": i}, cells[i])
        assert one.keys() == two.keys() == sorted(keys)
        assert one.table("scores").equals(two.table("scores"))
        two.update_manifest(order=keys)
        assert two.rows("scores") == [row for rows in cells for row in rows]


@LAW
@given(tables, st.data())
def test_a_change_of_any_byte_is_found(rows, data):
    with new_store() as store:
        path = store.folder / "cells" / put(store, {"i": 0}, rows) / "scores.parquet"
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        assert not store.has(cell_key({"i": 0}))
        assert store.damaged == 1
        put(store, {"i": 0}, rows)
        assert store.rows("scores") == rows


@LAW
@given(tables, st.data())
def test_a_file_cut_short_anywhere_is_found(rows, data):
    with new_store() as store:
        cell = store.folder / "cells" / put(store, {"i": 0}, rows)
        path = cell / data.draw(st.sampled_from(["scores.parquet", "cell.json"]))
        content = path.read_bytes()
        # a line end after the JSON is no part of it
        length = data.draw(st.integers(0, len(content.rstrip(b"\n")) - 1))
        path.write_bytes(content[:length])
        assert not store.has(cell.name)
        assert not cell.exists()


@LAW
@given(identities, identities)
def test_keys_are_equal_when_identities_are_and_only_then(one, two):
    assert cell_key(one) == cell_key(dict(reversed(one.items())))
    # repr, because Python holds 1, 1.0 and True for equal, and a record does not
    same = repr(sorted(one.items())) == repr(sorted(two.items()))
    if same or one != two:
        assert (cell_key(one) == cell_key(two)) == same


@LAW
@given(st.lists(row, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_column_types_do_not_depend_on_the_order_of_rows(rows, rng):
    shuffled = rng.sample(rows, len(rows))
    one, two = (as_table("scores", each).select(sorted(COLUMNS)) for each in (rows, shuffled))
    assert one.schema == two.schema


json_configs = st.dictionaries(text, json_values, max_size=3)


@FEW
@given(st.lists(tables, min_size=1, max_size=5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_the_index_says_what_the_cells_say_however_it_was_packed(cells, packed):
    with new_store() as store:
        keys = []
        for i, rows in enumerate(cells):
            keys.append(put(store, {"config": {"i": i}}, rows))
            if packed[i]:
                index.refresh(store.folder)
        store.update_manifest(order=keys)
        rows = index.table(store.folder, "scores", keys)
        expected = store.table("scores")
        assert rows.drop_columns("cell").to_pylist() == expected.to_pylist()
        assert {f.name: f.type for f in rows.schema if f.name != "cell"} == {
            f.name: f.type for f in expected.schema
        }
        listed = index.about(store.folder, keys).to_pylist()
        assert [row["key"] for row in listed] == keys
        assert [row["rows"] for row in listed] == [len(rows) for rows in cells]


@FEW
@given(json_configs, st.data())
def test_a_damaged_file_of_the_index_changes_nothing(config, data):
    with new_store() as store:
        key = put(store, {"config": config}, [{"a": 1}])
        index.refresh(store.folder)
        before = index.about(store.folder)
        assert json.loads(before["config"][0].as_py()) == config
        path = data.draw(st.sampled_from(sorted((store.folder / "index").iterdir())))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content[: data.draw(st.integers(place, len(content)))])
        assert index.about(store.folder).equals(before)
        assert index.table(store.folder, "scores").to_pylist() == [{"cell": key, "a": 1}]
