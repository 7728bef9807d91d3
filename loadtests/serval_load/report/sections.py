"""Documents that hold figures: each between two markers, so that a command can put new ones there."""


def replace_section(text: str, name: str, figures: str) -> str:
    """`text` with `figures` between the markers of `name`, in place of what was. Raises `ValueError`."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the file holds no {first} ... {last}")
    return f"{before}{first}\n{figures}{last}{after}"
