"""Rows of latent runs by hand, for charts, sentences, sections and figures."""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]

ATTACK = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'
NARROW = " An interval over fewer than 20 problems tends to be too narrow."

FLIPS = {
    "resample": (0.9, 0.8, 0.6, 0.0),
    "zero": (0.1, 0.05, 0.0, 0.0),
    "rotate_45": (0.3, 0.2, 0.1, 0.0),
    "identity": (0.0, 0.0, 0.0, 0.0),
}
"""Share of flips by operator, steps 1 to 4."""

WEIGHTS = {"resample": 1.0, "rotate_45": 0.25, "shuffled_donor": 0.5, "identity": 0.0}
"""W[t, s] is this times 1 / (s - t + 1)."""


def near(value: float | None, by: float = 0.05, name: str = "x", floor: float = 0.0) -> dict:
    """A value with an interval of `by` on both sides, from `floor` up."""
    low = None if value is None else max(floor, value - by)
    high = None if value is None else value + by
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def accuracy_row(
    subject: str = "coconut", accuracy: float = 0.94, n: int = 60, **more: Any
) -> dict:
    row = {"subject": subject, **near(accuracy, name="accuracy"), "unparsable": 0}
    return row | {"logprob": -0.1, "n_problems": n, "n_left_out": 0, "warning": ""} | more


def necessity_row(operator: str, steps: str, flip: float | None, n: int = 60, **more: Any) -> dict:
    single = "+" not in steps
    row = {"operator": operator, "edge": "input", "step": int(steps) if single else 0}
    row |= {"steps": steps, "ceiling": 0.875, **near(flip, name="flip")}
    row |= near(0.94, name="clean_accuracy") | near(flip and 0.94 - flip, name="accuracy")
    row |= near(flip and -flip, name="d_accuracy", floor=-1.0)
    row |= {"right_wrong": round(60 * (flip or 0)), "wrong_right": 0, "wrong_other": 1}
    row |= {"same": 0, "unparsable": 0, "kl": flip, "kl_answer": flip, "dlogp_answer": flip}
    row |= {"dlogp_sum": flip, "l2_answer": flip, "change": 1.0}
    return row | {"n_problems": n, "n_rows": n, "n_left_out": 0, "warning": ""} | more


def necessity_rows(n: int = 60) -> Rows:
    found = [
        necessity_row(operator, str(step), flip, n)
        for operator, flips in FLIPS.items()
        for step, flip in enumerate(flips, 1)
    ]
    whole = "1+2+3+4"
    return [
        *found,
        necessity_row("swap", whole, 0.875, n),
        necessity_row("identity", whole, 0.0, n),
    ]


def stop_rows(accuracy: tuple[float, ...] = (0.1, 0.2, 0.9, 0.7, 0.94), n: int = 60) -> Rows:
    rows, best = [], 0.0
    for k, value in enumerate(accuracy):
        best = max(best, value)
        row = {"k": k, **near(value, name="accuracy"), **near(best, name="solved")}
        row |= near(0.9 if value else None, name="retention") | near(value, name="forced")
        row |= near(0.95 if k < len(accuracy) - 1 else None, name="next_step")
        row |= {"unparsable": 0, "n_right": 5, "n_next": n, "n_problems": n, "warning": ""}
        rows.append(row)
    return rows


def settling_rows() -> Rows:
    return [{"id": f"p{i}", "first_right": 2, "settled": i % 3, "lost": i == 0} for i in range(6)]


def w_row(operator: str, t: int, s: int, x: float | None, n: int = 60, **more: Any) -> dict:
    row = {"operator": operator, "edge": "input", "measure": "kl", "t": t, "s": s}
    return (
        row
        | near(x, 0.0 if x == 0 else 0.05, floor=-9.0)
        | {"n_problems": n, "warning": None}
        | more
    )


def w_rows(n: int = 60, steps: int = 4, null: float = 0.0, preset: str = "default") -> Rows:
    weights = WEIGHTS | {"identity": null}
    return [
        w_row(operator, t, s, weight / (s - t + 1), n, preset=preset)
        for operator, weight in weights.items()
        for t in range(1, steps + 1)
        for s in range(t, steps + 1)
    ]


def shape_row(operator: str, metric: str, x: float | None, **more: Any) -> dict:
    row = {"operator": operator, "edge": "input", "measure": "kl", "metric": metric, **near(x)}
    row |= {"n_problems": 60, "warning": None, "uniform": 5 / 3 if metric == "span" else 0.5}
    return row | {"identity": None, "total": 2.5, "identity_total": 0.0, "preset": "default"} | more


SHAPE = {"locality": 0.7, "span": 1.4, "early_out": 0.52, "late_in": 0.48}
"""Under equal edges: 0.5, 5/3, 0.5, 0.5."""
FAULTY = {"locality": 0.35, "span": 2.0, "early_out": 0.36, "late_in": 0.95}
"""By the released definitions, of an edit and of the identity alike."""


def shape_rows() -> Rows:
    rows = [shape_row(o, m, x) for o in ("resample", "rotate_45") for m, x in SHAPE.items()]
    return rows + [shape_row("identity", m, None, total=0.0) for m in SHAPE]


def released_shape_rows() -> Rows:
    more = {"total": 10.8, "identity_total": 10.5, "preset": "released-code"}
    rows = [
        shape_row(o, m, x, **more | {"identity": x})
        for o in ("resample", "rotate_45")
        for m, x in FAULTY.items()
    ]
    null = more | {"total": 10.5}
    return rows + [shape_row("identity", m, x, **null | {"identity": x}) for m, x in FAULTY.items()]


def graph_rows() -> Rows:
    edges = {(1, 2): 0.5, (2, 3): 0.5, (3, 4): 0.5}
    return [
        w_row(o, t, s, x, direction="out", threshold=0.1, share=1.0)
        for o in ("resample", "rotate_45")
        for (t, s), x in edges.items()
    ]


def similarity_rows(x: float = 0.95) -> Rows:
    pair = {"a": "resample", "a_edge": "input", "b": "rotate_45", "b_edge": "input"}
    pair |= {"measure": "kl", "n_problems": 60, "warning": None}
    return [
        pair | {"metric": "cosine", **near(x), "chance": 0.85},
        pair | {"metric": "spearman", **near(0.6), "chance": 0.0},
    ]


def tested_rows() -> Rows:
    return [
        w_row("resample", t, s, -0.5, against="identity", p=p, p_family=p)
        for t, s, p in ((1, 1, 0.5), (1, 2, 0.001), (2, 2, 0.2), (1, 4, 0.01))
    ]


def commitment_rows(n: int = 40) -> Rows:
    bits = {"read_out": (1.0, 0.98, 0.9, 0.5, 0.1), "probe": (None, 0.9, 0.4, 0.2, 0.05)}
    rows = []
    for source, values in bits.items():
        for t, value in enumerate(values):
            if value is None:
                continue
            row = {"source": source, "t": t, "n_problems": n, **near(value, name="bits")}
            row |= near(1 - value / 2, name="accuracy") | near(1 - value, name="gap")
            row |= near(value / 2, name="ss") | near(1 - value, name="committed_0.4")
            rows.append(row | near(0.9 - 0.9 * value, name="committed_0.5"))
    return rows


def probe_rows(n: int = 40) -> Rows:
    rows = []
    for t, value in enumerate((0.9, 0.4, 0.2, 0.05), 1):
        row = {"t": t, "labels": "two", "n_problems": n, "n_rows": 800, "n_classes": 8}
        row |= near(value, name="bits") | near(1 - value / 2, name="accuracy")
        row |= near(1.02, name="shuffled_bits") | near(0.5, name="shuffled_accuracy")
        row |= {"base_bits": 1.0, "problem_bits": 0.95, "n_shuffles": 20, "rank": 1 / 21}
        rows.append(row)
    return rows


def lead_rows(lead: float = 1.2, by: float = 0.3, n: int = 40) -> Rows:
    row = {"threshold": 0.5, "n_problems": n, **near(3.4, name="output_step")}
    row |= near(3.4 - lead, name="representation_step") | near(lead, by, "lead", -9.0)
    return [row | {"output_never": 0.1, "representation_never": 0.0}]


def every_table() -> dict[str, Rows]:
    """One subject with all of its parts."""
    return {
        "accuracy": [accuracy_row()],
        "necessity": necessity_rows(),
        "early_stop": stop_rows(),
        "settling": settling_rows(),
        "influence": w_rows(),
        "influence_shape": shape_rows(),
        "influence_graph": graph_rows(),
        "influence_similarity": similarity_rows(),
        "influence_test": tested_rows(),
        "commitment": commitment_rows(),
        "commitment_probes": probe_rows(),
        "commitment_steps": lead_rows(),
        "released_influence": w_rows(null=0.9, preset="released-code"),
        "released_influence_shape": released_shape_rows(),
    }


def told_apart(names: tuple[str, ...] = ("coconut", "explicit")) -> dict[str, Rows]:
    """The same rows of several subjects."""
    return {
        table: [{**row, "subject": name} for name in names for row in rows]
        for table, rows in every_table().items()
    }
