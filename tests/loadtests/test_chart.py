"""The line chart behind load reports, cost scripts and drawn dashboards."""

import xml.etree.ElementTree as ET

from serval_load.report.chart import Series, document, panel

SVG = "{http://www.w3.org/2000/svg}"


def draw(*series: Series, **options: object) -> ET.Element:
    drawn = panel(series, title="a <title>", x="minutes", y="", **options)  # type: ignore[arg-type]
    return ET.fromstring(document([drawn]))  # noqa: S314  # our own


def texts(svg: ET.Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def test_panel_axes_start_at_zero_and_end_at_round_values() -> None:
    shown = texts(draw(Series("one", [(1, 70.0), (9.5, 7.0)])))
    assert {"0", "2.5", "10", "20", "80", "a <title>", "one"} <= set(shown)


def test_panel_x_range_and_value_text_are_those_given() -> None:
    shown = texts(draw(Series("", [(-2, 1.0)]), x_range=(-10, 0), y_text=lambda value: f"{value:g} ms"))
    assert {"-10", "-2.5", "0", "1 ms", "0.25 ms"} <= set(shown)


def test_panel_places_points_between_its_edges() -> None:
    svg = draw(Series("", [(-10, 0.0), (-5, 5.0), (0, 10.0)]), x_range=(-10, 0), size=(272, 188))
    assert [line.get("points") for line in svg.iter(f"{SVG}polyline")] == ["56.0,144.0 156.0,94.0 256.0,44.0"]


def test_filled_panel_draws_the_first_series_last() -> None:
    svg = draw(Series("low", [(0, 1.0), (1, 1.0)]), Series("high", [(0, 2.0), (1, 2.0)]), filled=True)
    first, second = (area.get("points", "").split()[1] for area in svg.iter(f"{SVG}polygon"))
    assert float(first.split(",")[1]) < float(second.split(",")[1])


def test_panel_leaves_out_points_without_a_value() -> None:
    svg = draw(Series("", [(0, 1.0), (1, float("nan")), (2, 1.0)]))
    (line,) = svg.iter(f"{SVG}polyline")
    assert len(line.get("points", "").split()) == 2


def test_legend_wraps_inside_the_panel() -> None:
    svg = draw(*(Series(f"a series with a long name {number}", [(0, 1.0)]) for number in range(3)))
    named = [text for text in svg.iter(f"{SVG}text") if (text.text or "").startswith("a series")]
    assert len({text.get("y") for text in named}) == 3
    lowest = max(float(text.get("y", 0)) for text in named)
    assert lowest < min(float(line.get("y1", 0)) for line in svg.iter(f"{SVG}line"))
