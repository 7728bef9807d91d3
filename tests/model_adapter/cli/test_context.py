"""`serval context`: the table on its page, measured costs, JSON, and exit codes."""

import json
import re
from pathlib import Path

import pytest

from serval_sglang.cli.context import MACHINES, main
from serval_testkit.repository import ROOT

PAGE = ROOT / "model_adapter/LONG_CONTEXT.md"
ONE_H200 = ["--gpu-memory-gib", "140.4", "--dtype", "fp8"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, capsys.readouterr().out


def test_context_prints_the_table_of_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = re.findall(r"^\$ serval context\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert printed(capsys) == (0, shown)


def test_context_says_that_seconds_are_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, *ONE_H200, "--lengths", "4096")[1].startswith(
        "seconds: predicted from data sheets, not measured;"
    )


def test_context_takes_measured_costs_and_names_their_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = tmp_path / "rates.json"
    costs = {"decode_base_s": 0.01, "decode_request_s": 0, "prefill_base_s": 0, "prefill_token_s": 0.001}
    rates.write_text(json.dumps({"costs": costs}))
    code, out = printed(capsys, *ONE_H200, "--rates", str(rates), "--lengths", "20000")
    assert code == 0
    assert out.startswith(f"seconds: measured, {rates}; attention to a longer context costs nothing")
    assert out.splitlines()[-1].split()[4:9] == ["20,000", "0.60", "53", "20.0", "10.0"]


def test_context_json_has_every_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = printed(capsys, "--json", "--lengths", "32768", "--calls", "1", "--result", "10")
    assert code == 0
    found = json.loads(out)
    assert [one["name"] for one in found["machines"]] == [machine.name for machine in MACHINES]
    assert found["work_tokens"]["calls"] == 1
    assert found["machines"][0]["prompts"][0]["kv_bytes"] == 32_768 * 32_256
    assert found["machines"][0]["prompts"][0]["questions"] > 0


def test_context_names_retrieval_that_is_always_cheaper(capsys: pytest.CaptureFixture[str]) -> None:
    # Each token of a long answer attends to all of the prompt.
    asked = [*ONE_H200, "--lengths", "262144", "--answer", "5000", "--calls", "1"]
    assert printed(capsys, *asked)[1].endswith(" always\n")
    assert json.loads(printed(capsys, *asked, "--json")[1])["machines"][0]["prompts"][0]["questions"] is None


def test_context_that_fits_nowhere_is_a_negative_result(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = printed(capsys, "--gpu-memory-gib", "79.6")
    assert code == 1
    assert out.count("does not fit") == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rates", "rates.json"], "--rates needs --gpu-memory-gib"),
        (["--lengths", "400000"], "the model's context is 327,680 tokens, got 400,000"),
        (["--gpu-memory-gib", "33"], "speeds are known of A100"),
        (["--lengths", "0"], "must be at least 1"),
    ],
)
def test_context_refuses_wrong_use(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
