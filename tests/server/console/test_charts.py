"""Stacked bars."""

from serval.console.charts import HEIGHT, MOST_NAMES, OTHERS, stacked_bars


def test_bars_stack_up_to_their_share_of_the_top() -> None:
    chart = stacked_bars({("mon", "a"): 30, ("mon", "b"): 10, ("tue", "a"): 20}, ["mon", "tue"])
    assert chart.top == 40
    assert chart.names == ["a", "b"]
    monday = [bar for bar in chart.bars if bar.title.startswith("mon")]
    assert [(bar.series, bar.height) for bar in monday] == [(0, HEIGHT * 0.75), (1, HEIGHT * 0.25)]
    assert [bar.y for bar in monday] == [HEIGHT * 0.25, 0]
    assert chart.bars[2].height == HEIGHT * 0.5


def test_small_names_are_drawn_together() -> None:
    counts = {("mon", f"name {number:02}"): 100 - number for number in range(20)}
    chart = stacked_bars(counts, ["mon"])
    assert chart.names[-1] == OTHERS
    assert len(chart.names) == MOST_NAMES + 1
    assert sum(bar.height for bar in chart.bars) == 200
    assert max(bar.series for bar in chart.bars) == MOST_NAMES


def test_chart_without_counts_has_no_bars() -> None:
    chart = stacked_bars({}, ["mon"])
    assert (chart.bars, chart.top) == ([], 0)
