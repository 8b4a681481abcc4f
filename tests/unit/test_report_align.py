"""The sections about alignment: verdicts look different, nothing is found without its guards."""

from __future__ import annotations

import re
from typing import Any

import pytest

from interp.alignment import baselines, evidence, verdicts
from interp.errors import InputError
from interp.jobs import runs
from interp.jobs.align import INCOMPLETE
from interp.results import align_findings as said
from interp.results import report_align as align
from interp.results.report import TABLES, render
from interp.results.report_latent import together
from interp.results.report_stats import DASH
from tests.latent_report_rows import ATTACK
from tests.unit import test_align_charts as rows
from tests.unit.test_report_latent import store

FOUND = "FOUND UNDER orthogonal, IN DISTRIBUTION"


def cells(html: str, head: str) -> list[list[str]]:
    """Lines of all tables whose first head is given, texts only."""
    tables = [t for t in re.findall(r"<table>.*?</table>", html) if f">{head}</th>" in t]
    lines = [x for t in tables for x in re.findall(r"<tr>(.*?)</tr>", t.partition("<tbody>")[2])]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def cards(html: str) -> list[str]:
    return re.findall(r'<div class="verdict".*?</div>', html)


# ---------------------------------------------------------------- the fixed words


def test_the_words_and_the_guards_are_those_of_the_verdicts():
    kinds = [said.kind_of(word.format(map="any, map")) for word in verdicts.WORDS]
    weakest_first = [said.INVALID, said.NOT_FOUND, said.VACUOUS]
    assert kinds == [*weakest_first, said.IN_DISTRIBUTION, said.GENERALISES]
    assert said.kind_of(INCOMPLETE) == said.NO_VERDICT
    assert said.GUARDS == evidence.GUARDS
    assert said.BASELINES == baselines.NAMES
    for word in ("IMPLEMENTS", "FOUND", "NOT FOUND, GENERALISES", "found under x, GENERALISES"):
        assert said.kind_of(word) == said.NO_VERDICT


# ---------------------------------------------------------------- sections


def test_every_section_is_there_in_order_and_none_without_rows():
    found = align.sections(rows.every_table())
    assert list(found) == list(align.TITLES)
    assert align.sections({}) == {}
    assert list(align.sections({"align_fits": rows.fit_rows()})) == ["align-fits"]
    assert set(align.TABLES) <= set(TABLES)


def test_every_chart_has_its_place_and_every_place_its_chart():
    both = together({"a": rows.every_table(), "b": rows.every_table()})
    for tables in (rows.every_table(), both):
        found = align.sections(tables)
        charts = [name for section in found.values() for name in section.charts]
        assert len(set(charts)) == len(charts)
        for section in found.values():
            places = re.findall(r'<div class="chart" id="([^"]+)">', section.body)
            assert sorted(places) == sorted(section.charts)


def test_verdicts_differ_in_words_sign_border_and_colour():
    tables = rows.every_table()
    drawn = cards(align.sections(tables)["align-verdicts"].body)
    heads = [re.findall(r"<span[^>]*>(.)</span> ([^<]*)</h3>", card)[0] for card in drawn]
    assert heads == [("✓", FOUND), ("≈", "VACUOUS FOR THIS MAP"), ("✕", "NOT FOUND")]
    borders = [re.findall(r"border-left:9px (\w+) (#\w+)", card)[0] for card in drawn]
    assert len({kind for kind, _ in borders}) == len({colour for _, colour in borders}) == 3
    signs = [look.sign for look in said.LOOKS.values()]
    assert len(set(signs)) == len(signs)
    first = re.sub(r"<[^>]+>", "|", drawn[0])
    order = [
        "IN DISTRIBUTION",
        "both under orthogonal",
        "This is why.",
        "This may be",
        "And a note.",
    ]
    assert [first.index(text) for text in order] == sorted(first.index(text) for text in order)


def test_the_table_of_verdicts_has_controls_beside_the_score():
    body = align.sections(rows.every_table())["align-verdicts"].body
    assert cells(body, "Algorithm, map")[0] == [
        "both, orthogonal",
        "layer 1, 8",
        "0.920<small>0.900 to 0.940</small>",
        "0.930",
        "0.500",
        "0.750",
        "0.999",
        "2",
        FOUND,
    ]


def test_the_score_between_two_answers_has_a_column_where_it_is_known():
    """A rival's answer may be neither of the two, so its line shows none."""
    tables = rows.every_table()
    assert "Of two answers" not in align.sections(tables)["align-fits"].body
    scored = {"restricted_iia": 0.875, "unseen_restricted_iia": 0.5}
    fits = [{**row, **scored} for row in tables["align_fits"]]
    fits[0] |= {"restricted_iia": 0.625}
    body = align.sections({**tables, "align_fits": fits})["align-fits"].body
    lines = cells(body, "Algorithm, map")
    shown = {line[2]: [cell for cell in line if "held out" in cell] for line in lines}
    assert shown["twin"] == ["0.875<small>held out 0.500</small>"]
    assert "0.750<small>held out 0.500</small>" in [cell for line in lines for cell in line]
    assert shown["trained (rival)"] == []
    assert len({len(line) for line in lines}) == 1


def test_the_page_is_named_after_what_was_tested_for_what():
    chosen = {"experiment": "align", "settings": {"task": "ioi", "algorithm": "pattern"}}
    assert "<h1>Alignment: ioi, tested for pattern</h1>" in render(chosen, rows.every_table())


def test_the_head_has_each_verdict_or_counts_of_all():
    three = align.sections(rows.every_table())["align-verdicts"].findings
    assert [f.title.partition(":")[0] for f in three] == list(rows.WORDS.values())
    assert three[0].detail == (
        "This is why. This may be said. And a note. An interval over fewer than 20 networks tends "
        "to be too narrow."
    )
    assert "And a note." not in three[2].detail
    more = rows.every_table()["align_verdicts"] + [rows.verdict_row("INVALID", map="pca")]
    (one,) = said.verdict_findings(more, 3)
    assert one.title == (
        "4 verdicts: 1 FOUND, IN DISTRIBUTION, 1 VACUOUS FOR THIS MAP, 1 NOT FOUND, 1 INVALID."
    )


def broken(name: str, change: Any) -> dict[str, rows.Rows]:
    tables = rows.every_table()
    return {**tables, name: change(tables[name])}


@pytest.mark.parametrize(
    ("name", "change", "lacks"),
    [
        ("align_guards", lambda r: r[1:], "random twin"),
        ("align_guards", lambda r: [{**x, "found": "missing"} for x in r[:2]] + r[2:], "random"),
        ("align_baselines", lambda r: r[:5] + r[6:], "the baseline 'constant answer'"),
        ("align_verdicts", lambda r: [{**x, "train_iia": None} for x in r], "train IIA"),
    ],
)
def test_nothing_is_found_without_its_guards_baselines_and_train_iia(name, change, lacks):
    with pytest.raises(InputError, match=f"both under orthogonal .* and lack {lacks}"):
        render({}, broken(name, change))


def test_what_lacks_is_told_word_for_word():
    with pytest.raises(InputError) as caught:
        said.require_grounds(rows.verdict_row(FOUND), rows.guard_rows()[2:], rows.baseline_rows())
    assert str(caught.value) == (
        "The records say that both under orthogonal at layer 1, size 8 was found, and lack random "
        "twin; wrong algorithm: no report may say so. Run `interp align` again in a new folder."
    )


@pytest.mark.parametrize("word", ["INVALID", "NOT FOUND", "VACUOUS FOR THIS MAP", "NO VERDICT"])
def test_weaker_verdicts_need_no_further_guard(word):
    section = align.sections({"align_verdicts": [rows.verdict_row(word)]})
    assert f"</span> {word}</h3>" in section["align-verdicts"].body
    assert section["align-guards"].body.count("<td>MISSING</td>") == 13


def test_all_thirteen_guards_are_in_the_table_of_each_verdict():
    body = align.sections(rows.every_table())["align-guards"].body
    lines = cells(body, "Guard")
    assert len(lines) == 39
    assert lines[0] == ["1. random twin", "0.500 (0.4 to 0.6)"]
    assert lines[3] == ["4. held-out identities", "does not apply: no names"]
    assert lines[12][0] == "13. positive control"
    assert "both under identity at layer 1, size 8: 13 of 13 answered; NOT FOUND" in body
    assert body.count("<details") == 3
    assert body.count(" open>") == 1


def test_fits_have_train_beside_test_and_twins_and_rivals_in_lines_of_their_own():
    section = align.sections(rows.every_table())["align-fits"]
    lines = cells(section.body, "Algorithm, map")
    assert [line[2] for line in lines[:4]] == ["trained", "twin", "trained", "trained (rival)"]
    assert lines[0][3:] == [
        "0.920<small>0.900 to 0.940</small>",
        "0.930",
        "0.820",
        "1.000",
        DASH,
        "0<small>inverse 1e-15</small>",
        "120<small>1,000 updates</small>",
        "2",
    ]
    told = "both under orthogonal at layer 1, size 8: test IIA 0.920 (95% interval 0.900 to 0.940)"
    assert f"<h3>{told}, train IIA 0.930.</h3>" in section.body
    assert "Random twins of the same shape reach 0.500" in section.body
    assert "a gap of 0.420. 2 fits and 2 twins." in section.body


def test_a_score_without_twins_is_said_to_show_nothing():
    tables = {"align_fits": [rows.fit_row(7, 0.9)], "align_verdicts": [rows.verdict_row()]}
    body = align.sections(tables)["align-fits"].body
    assert "No random twin was fitted here, so this alone shows nothing." in body


def test_baselines_are_split_by_class_with_the_map_first():
    body = align.sections(rows.every_table())["align-baselines"].body
    lines = cells(body, "Answers by")
    assert lines[0] == ["the map", "0.920<small>0.900 to 0.940</small>", DASH, "0.820", "1.000"]
    assert lines[1] == ["full vector", "0.500", "0.500", "0.000", "1.000"]
    assert lines[6][3] == DASH  # no sensitive pair that the constant answer was scored on
    assert "the best baseline is constant answer, 0.750; the map reaches 0.920." in body
    assert "difference of means: ranks 1, 1." in body


def test_controls_have_train_beside_test_and_the_gap():
    body = align.sections(rows.every_table())["align-controls"].body
    first = cells(body, "Control")[0]
    assert first == ["shuffled labels", "0.550<small>0.530 to 0.570</small>", "0.700", "0.370"]


def test_capacity_and_bits_stand_beside_the_twin():
    body = align.sections(rows.every_table())["align-capacity"].body
    assert cells(body, "Family, network")[2] == [
        "orthogonal, trained",
        "1,000",
        "0.800",
        "0.700",
        "120",
    ]
    assert "with 10,000 pairs trained 0.700 (train 0.800) and twin 0.500 (train 0.600)" in body
    assert "bits per pair, network 0.500, twin 2.000, rival 1.750." in body
    assert "Without a rule a label takes 2.000." in body
    place = said.place_of(rows.place())
    longer = [{**r, "bits_per_pair": 2.0} for r in rows.bit_rows()]
    told = said.bits_finding(place, longer, None).detail
    assert told.endswith("The network's code is no shorter than a control's.")
    assert "no shorter" not in said.bits_finding(place, rows.bit_rows(), None).detail


def test_runs_share_charts_and_their_rivals_stay_their_own():
    runs_ = {"a": rows.every_table(), "b": rows.every_table(algorithm="rival")}
    runs_["b"]["align_fits"] = rows.fit_rows(algorithm="rival")[:4]
    found = align.sections(together(runs_))
    lines = cells(found["align-fits"].body, "Algorithm, map")
    told = {(line[0], line[2]) for line in lines}
    assert ("a: rival, orthogonal", "trained (rival)") in told
    assert ("b: rival, orthogonal", "trained") in told
    heads = [n["text"] for n in found["align-fits"].charts["align-iia"]["layout"]["annotations"]]
    assert [head for head in heads if "orthogonal" in head] == [
        "a: both, orthogonal",
        "b: rival, orthogonal",
    ]
    (one,) = found["align-verdicts"].findings
    assert one.title.startswith("6 verdicts: 2 FOUND, IN DISTRIBUTION")


# ---------------------------------------------------------------- the page


def test_no_text_of_a_record_runs():
    plain = rows.every_table(algorithm=ATTACK)
    sited = {name: [{**row, "site": ATTACK} for row in made] for name, made in plain.items()}
    tables = together({ATTACK: sited})
    for name, column in (
        ("align_verdicts", "reason"),
        ("align_verdicts", "claim"),
        ("align_verdicts", "notes"),
        ("align_guards", "found"),
        ("align_baselines", "note"),
        ("align_controls", "control"),
        ("align_curve", "family"),
        ("align_bits", "code"),
        ("align_fits", "map"),
    ):
        tables[name] = [{**row, column: ATTACK} for row in tables[name]]
    tables["align_verdicts"].append(rows.verdict_row(ATTACK, map=ATTACK, subject=ATTACK))
    body = render({"experiment": ATTACK}, tables).partition("<body>")[2]
    assert "<img" not in body
    assert "alert(1)</script>" not in body


def test_the_page_has_the_sections_and_the_same_rows_give_the_same_bytes():
    page = render({"experiment": "align"}, rows.every_table())
    for name, title in align.TITLES.items():
        assert f'<section id="{name}"><h2>{title}</h2>' in page
    assert page == render({"experiment": "align"}, rows.every_table())


def test_the_page_of_a_store_shows_its_verdict(tmp_path):
    made = store(tmp_path / "run", "align", {"align_verdicts": [rows.verdict_row("NOT FOUND")]})
    page = runs.write_report(made).read_text(encoding="utf-8")
    assert "</span> NOT FOUND</h3>" in page
    assert "<h2>NOT FOUND: both under orthogonal at layer 1, size 8.</h2>" in page
