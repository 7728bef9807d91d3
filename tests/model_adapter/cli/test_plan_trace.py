"""`serval plan --trace`: table, choice, JSON and errors."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serval_sglang.cli.plan import main

H200 = ["--gpu-memory-gib", "140.4", "--dtype", "fp8", "--context", "131072"]
LOG = "prompt,output,cached,at\n" + "".join(f"4000,200,3000,{number / 4}\n" for number in range(40))


@pytest.fixture
def log(tmp_path: Path) -> str:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return str(path)


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    costs = {
        "decode_base_s": 0.01,
        "decode_request_s": 0.001,
        "prefill_base_s": 0.02,
        "prefill_token_s": 1e-5,
    }
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"costs": {**costs, "kv_tokens": 50_000}}))
    return path


def test_plan_compares_sizes_and_names_the_flags_of_one(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*H200, "--gpus", "2", "--trace", log]) == 0
    out = capsys.readouterr().out
    assert "40 requests, 4,000 tokens in and 200 out in the mean" in out
    assert "estimated for H200, fp8; not measured on Serval" in out
    rows = re.findall(r"^ +(\d) +(\d) +([\d,]+) ", out, re.MULTILINE)
    assert {(tp, engines) for tp, engines, _ in rows} == {("1", "2"), ("2", "1")}
    assert {chunk for _, _, chunk in rows} == {"2,048", "4,096", "8,192", "16,384"}
    assert re.search(
        r"^take: --tp [12] --chunked-prefill-size \d+ --max-running-requests \d+$", out, re.MULTILINE
    )


def test_plan_takes_only_the_sizes_that_are_given(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--gpus", "2", "--tp", "2", "--chunked-prefill-size", "4096", "--trace", log]
    assert main([*H200, *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["tp"], row["chunked_prefill_size"]) for row in found["rows"]] == [(2, 4096)]
    assert found["chosen"] == 0


def test_plan_estimates_no_costs_of_sparse_attention(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*H200, "--gpus", "2", "--model", "lite-sparse", "--trace", log])
    assert "this model's is sparse: give --rates" in capsys.readouterr().err


def test_plan_takes_measured_costs_without_a_gpu(
    log: str, rates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--trace", log, "--rates", str(rates), "--concurrency", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["tp"] is None
    assert row["kv_cache_tokens"] == 50_000
    assert row["requests"] == 40
    # Two at a time: 0.03 s for a prompt, 0.012 s for a token.
    assert row["user_tokens_per_s"] == pytest.approx(1 / 0.012, rel=0.02)
    assert row["max_running_requests"] == 8


def test_plan_says_that_nothing_is_fast_enough(
    log: str, rates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--trace", log, "--rates", str(rates), "--first-token", "0.001"]) == 1
    assert (
        "no row serves all requests with nine of ten first tokens within 0.001 s" in capsys.readouterr().out
    )
    assert main(["--gpu-memory-gib", "79.6", "--trace", log]) == 1
    assert "no engine fits" in capsys.readouterr().out


def test_plan_writes_no_nan_into_json(
    tmp_path: Path, rates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,output,at\n60000,1,0\n")
    assert main(["--trace", str(path), "--rates", str(rates), "--json"]) == 1

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    (row,) = json.loads(capsys.readouterr().out, parse_constant=refuse)["rows"]
    assert row["failed"] == 1
    assert row["first_s"] == [None, None, None]


def test_plan_names_the_line_of_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,output\n5,many\n")
    assert main([*H200, "--trace", str(path)]) == 2
    assert re.fullmatch(
        r"serval plan: error: .*log.csv:2: output must be a whole number of tokens, got 'many'; .*\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "required: --gpu-memory-gib"),
        (["--gpu-memory-gib", "24"], "speeds are known of A100"),
        (H200, "give the number of sessions with --concurrency N"),
    ],
)
def test_plan_says_which_option_is_missing(
    tmp_path: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.csv"
    path.write_text("prompt,output\n5,5\n" if flags == H200 else "prompt,output,at\n5,5,0\n")
    with pytest.raises(SystemExit) as ended:
        main([*flags, "--trace", str(path)])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_plan_imports_neither_torch_nor_sglang(log: str) -> None:
    code = (
        "import sys; from serval_sglang.cli.plan import main; main(sys.argv[1:]);"
        "assert not {'torch', 'sglang', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *H200, "--trace", log], check=True, capture_output=True)
