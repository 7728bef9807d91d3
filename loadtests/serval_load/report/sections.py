"""Generated sections of documents: the text between two markers, which a command replaces."""


def replace_section(text: str, name: str, figures: str) -> str:
    """Replace the text between the markers of `name` with `figures`. Raises `ValueError` without markers."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the file holds no {first} ... {last}")
    return f"{before}{first}\n{figures}{last}{after}"
