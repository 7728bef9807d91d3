"""The picture of the first minute, drawn from text that a real run printed (first_minute.txt).

Recorded on 2026-11-29 with the demo model on a CPU: `make serve`, the command that it shows, and
`serval chat` with a Python file of one function. `…` is in place of the key; long lines are broken.
"""

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
RECORDING = HERE / "first_minute.txt"
PICTURE = HERE / "first_minute.svg"
COLUMNS = 104
# rich's own frame without its web font: a picture in a README may load nothing.
FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="A terminal">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; \
font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def picture(recording: str) -> str:
    """Draw the lines as a terminal, as SVG."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    for line in recording.splitlines():
        console.print(Text(line, style=_style(line)), no_wrap=True, overflow="ignore", crop=True)
    return console.export_svg(title="Serval", unique_id="first-minute", code_format=FRAME)


def _style(line: str) -> str:
    if line.startswith(("$", ">", "curl", "  ")):
        return "bold"
    if line.startswith(("←", "The engine's log")):
        return "dim"
    if line.startswith("→"):
        return "cyan"
    return "green" if line.startswith("✓") else ""
