"""The pure parts of the benchmarks: what is judged against what, and how it is shown."""

import math
from pathlib import Path

import pytest

from benchmarks import apps, link, report, startup
from benchmarks.apps import App
from benchmarks.measurements import Measurements
from benchmarks.report import By, Row, exponent, figure, must_reach, table

LARGE_UNCHANGED = "large app, unchanged, gzip"


def found(**figures: float) -> Measurements:
    measured = Measurements()
    for name, value in figures.items():
        measured.add(name, value)
    return measured


def rows_of(measured: Measurements) -> dict[str, Row]:
    return {f"{row.case} / {row.beside_name}": row for row in must_reach(measured)}


def test_a_ratio_is_met_at_its_limit_and_not_above() -> None:
    assert Row("x", 2.5, 0.25, beside=10.0, beside_name="peer").verdict == "met"
    assert Row("x", 2.6, 0.25, beside=10.0, beside_name="peer").verdict == "NOT MET"


def test_a_difference_is_judged_by_what_is_more() -> None:
    row = Row("x", 4.0, 3, By.MORE, 1.5, "without")
    assert (row.judged, row.verdict) == (2.5, "met")


def test_a_figure_of_its_own_needs_nothing_beside_it() -> None:
    assert Row("x", 9, 8, By.ITSELF, unit="").verdict == "NOT MET"


@pytest.mark.parametrize("by", [By.RATIO, By.MORE])
def test_what_has_nothing_beside_it_is_not_measured(by: By) -> None:
    assert Row("x", 1.0, 0.5, by, None, "peer").verdict == report.NOT_MEASURED


def test_nothing_measured_leaves_every_target_in_the_table() -> None:
    rows = must_reach(Measurements())
    assert {row.verdict for row in rows} == {report.NOT_MEASURED}
    assert LARGE_UNCHANGED in [row.case for row in rows]


def test_the_median_of_a_side_is_compared_with_the_median_of_the_peer() -> None:
    measured = Measurements()
    for ours, theirs in ((2.0, 19.0), (9.0, 20.0), (3.0, 90.0)):
        measured.add("large/unchanged/fab gzip", ours)
        measured.add("large/unchanged/peer", theirs)
    row = rows_of(measured)[f"{LARGE_UNCHANGED} / peer"]
    assert (row.ours, row.beside, row.judged) == (3.0, 20.0, 0.15)


def test_the_compressor_of_each_side_is_named() -> None:
    measured = found(**{"large/unchanged/fab gzip": 2.0, "large/unchanged/peer": 10.0})
    measured.add("large/unchanged/fab gzip/whole command", 3.0)
    measured.add("large/unchanged/peer/whole command", 12.0)
    measured.compressors |= {"fab gzip": "python-isal 1.7.2", "peer": "gzip 1.12"}
    (row,) = [row for row in must_reach(measured) if row.case == f"{LARGE_UNCHANGED} by python-isal 1.7.2"]
    assert (row.beside_name, row.judged) == ("peer (gzip 1.12)", 0.2)
    lines = report.deploy_table(measured).splitlines()
    assert [line.rpartition("  ")[2] for line in lines[2:]] == ["fab gzip (python-isal 1.7.2)", "peer (gzip 1.12)"]


def test_packing_is_compared_with_the_slower_of_the_fastest_pipe_and_the_fastest_upload() -> None:
    measured = found(
        **{
            "large/pack, hash, upload/gzip": 2.0,
            "large/floor/tar | gzip -6": 13.0,
            "large/floor/tar | igzip": 1.0,
            "large/floor/upload by boto3, gzip": 1.6,
            "large/floor/upload by one PUT, gzip": 1.1,
        }
    )
    row = rows_of(measured)["pack + hash + upload, gzip / upload by one PUT, gzip"]
    assert row.judged == pytest.approx(2.0 / 1.1)


def test_packing_without_an_upload_beside_it_is_not_judged() -> None:
    measured = found(**{"large/pack, hash, upload/gzip": 2.0, "large/floor/tar | igzip": 1.0})
    assert rows_of(measured)["pack + hash + upload, gzip / pipe and upload"].verdict == report.NOT_MEASURED


def test_start_up_and_the_long_line_find_their_floors() -> None:
    measured = found(
        **{
            f"start-up/floor/{startup.EMPTY_LIST}": 0.2,
            f"start-up/{startup.LIST}": 0.3,
            f"small/link/{link.NEAR}": 1.0,
            f"small/link/{link.FAR}": 5.0,
        }
    )
    rows = rows_of(measured)
    assert rows[f"{startup.LIST} / {startup.EMPTY_LIST}"].verdict == "met"
    assert rows["small app over 150 ms, until the event / without"].verdict == "NOT MET"


def test_the_highest_peak_counts_whichever_case_had_it() -> None:
    measured = Measurements()
    for case, peak in (("cold", 90.0), ("cold", 151.0), ("one file changed", 80.0)):
        measured.add(f"size/MB/{case}/2000/peak memory/worker", peak, "MB")
    row = rows_of(measured)["peak memory, worker, 2,000 MB / "]
    assert (row.ours, row.verdict) == (151.0, "NOT MET")


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_the_power_with_which_cost_grows(power: float) -> None:
    points = [(size, 3.0 * size**power) for size in (10.0, 100.0, 1_000.0)]
    assert exponent(points) == pytest.approx(power)


def test_what_every_deploy_costs_does_not_hide_growth_at_the_largest_size() -> None:
    # Flat for small sizes, and quadratic from 1,000 on.
    step = exponent([(1.0, 5.0), (1_000.0, 5.0), (10_000.0, 500.0)])
    assert step is not None
    assert math.isclose(step, 2.0)


def test_one_size_has_no_exponent() -> None:
    assert exponent([(1.0, 1.0)]) is None


def test_cost_is_judged_only_if_the_largest_size_was_measured() -> None:
    case = "cost against files, cold: exponent at 100,000"
    few = {"size/files/cold/1000": 1.0, "size/files/cold/10000": 2.0}
    assert {row.case: row.verdict for row in must_reach(found(**few))}[case] == report.NOT_MEASURED
    all_sizes = {**few, "size/files/cold/100000": 15.0}
    assert {row.case: row.verdict for row in must_reach(found(**all_sizes))}[case] == "met"


def test_memory_at_a_size_is_no_cost() -> None:
    measured = found(**{"size/MB/cold/30": 2.0, "size/MB/cold/30/peak memory/worker": 60.0, "size/MB/cold/1": 1.0})
    assert report.costs(measured, "MB", "cold") == [(1.0, 1.0), (30.0, 2.0)]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(None, "s", "not measured"), (0.0131, "s", "0.013 s"), (1.234, "s", "1.23 s"), (123.4, "MB", "123 MB"),
     (61.73, "MB", "61.7 MB"), (26, "", "26"), (0.254, "×", "0.25×")],
)  # fmt: skip
def test_figures_have_as_many_digits_as_they_are_worth(value: float | None, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_columns_of_a_table_stand_below_their_heads() -> None:
    assert table(["case", "s", "verdict"], [["large", "10.00", "met"], ["small", "1.00", ""]]).splitlines() == [
        "case       s  verdict",
        "─────  ─────  ───────",
        "large  10.00  met",
        "small   1.00",
    ]


def test_the_tables_of_nothing_and_of_all_can_be_written() -> None:
    measured = found(
        **{"large/cold/fab gzip": 2.0, "large/cold/fab gzip/whole command": 2.5, "size/files/cold/10": 1.0}
    )
    measured.add("large/cold/fab gzip/phase/build", 1.5)
    measured.note("the peer was not measured: CAPISTRANO_STRETCHER is not set")
    text = report.full_text(measured, "a place")
    assert "1.50 s" in text
    assert "CAPISTRANO_STRETCHER is not set" in text
    assert LARGE_UNCHANGED in report.full_text(Measurements(), "a place")


def test_one_seed_gives_the_same_application_each_time(tmp_path: Path) -> None:
    app = App("tiny", 4, 1_000)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        apps.write(app, tmp_path / name)
    paths = [app.path(number) for number in range(app.files)]
    contents = [(tmp_path / "one" / path).read_bytes() for path in paths]
    assert contents == [(tmp_path / "other" / path).read_bytes() for path in paths]
    assert {len(content) for content in contents} == {1_000}
    assert len(set(contents)) == 4
