"""Ask Serval for one token and print the answer. Needs only the standard library."""

import json
import os
import urllib.request
from pathlib import Path

lines = Path(os.environ["KEYS"]).read_text().splitlines()
key = next(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
body = {
    "model": os.environ["MODEL"],
    "messages": [{"role": "user", "content": "Hello"}],
    "max_completion_tokens": 1,
}
request = urllib.request.Request(  # noqa: S310  # the URL is the chart's own
    os.environ["URL"] + "/chat/completions",
    data=json.dumps(body).encode(),
    headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
    answer = json.load(response)
assert answer["usage"]["completion_tokens"] == 1, answer
print(json.dumps(answer))
