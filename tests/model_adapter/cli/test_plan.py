"""`serval plan`: flags, table and JSON output, and exit code."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serval_sglang.cli.plan import main
from serval_sglang.known_configs import LITE, TINY
from serval_testkit.repository import ROOT, tracked_files

# Options of `serval serve` -> flags of `serval plan`.
PLANNED_FLAGS = {
    "--tp": "--tp",
    "--ep": "--ep",
    "--context-length": "--context",
    "--chunked-prefill-size": "--chunked-prefill-size",
    "--ngram-tables": "--tables",
}


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_plan_json_for_fp8_on_one_h200(capsys: pytest.CaptureFixture[str]) -> None:
    code, plan = as_json(capsys, "--gpu-memory-gib", "140.4", "--dtype", "fp8")
    assert code == 0
    assert plan["fits"] is True
    assert plan["gpu"]["weights_bytes"]["n-gram tables"] == 62_813_970_432
    assert plan["kv_cache"]["bytes_per_token"] == 32_256
    assert plan["concurrent_requests"].keys() == {"4096", "32768", "262144"}
    gpu = plan["gpu"]
    used = gpu["weights_total_bytes"] + gpu["runtime_bytes"] + gpu["reserve_bytes"] + gpu["kv_cache_bytes"]
    assert used == gpu["memory_bytes"]


def test_plan_says_that_no_gpu_serves_sparse_attention_yet(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--gpu-memory-gib", "140.4", "--gpus", "2", "--model", "lite-sparse"]
    code, plan = as_json(capsys, *flags)
    assert (code, plan["fits"], plan["assumptions"]["context_tokens"]) == (0, True, 983_040)
    assert plan["refused_on_gpu"].startswith("no engine on a GPU serves LongCat-Flash-Lite-Sparse yet")
    assert main(flags) == 0
    assert "not served yet: no engine on a GPU" in capsys.readouterr().out
    assert as_json(capsys, "--gpu-memory-gib", "140.4", "--dtype", "fp8")[1]["refused_on_gpu"] is None


def test_plan_counts_drafts(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--gpu-memory-gib", "140.4", "--dtype", "fp8"]
    assert main([*flags, "--mtp-steps", "3"]) == 0
    table = capsys.readouterr().out
    assert "drafts: 3 tokens at a time (serval engine --mtp-steps 3)" in table
    assert "SGLang's default and the graphs of all numbers of draft steps, for chunks of" in table
    assert "MTP" in table
    assert main([*flags, "--mtp-steps", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["assumptions"]["mtp_steps"] == 3
    assert found["kv_cache"]["bytes_per_token"] == 33_408
    assert found["request_slots"] == 48


def test_plan_suggests_changes_if_bf16_does_not_fit_one_h100(capsys: pytest.CaptureFixture[str]) -> None:
    code, plan = as_json(capsys, "--gpu-memory-gib", "79.6")
    assert code == 1
    assert plan["fits"] is False
    assert "GiB more than a GPU has" in plan["shortcomings"][0]
    assert "--gpus 4 --tp 4" in plan["would_fit_with"]
    assert "--dtype fp8 --tables host" in plan["would_fit_with"]


def test_plan_suggestion_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--gpu-memory-gib", "79.6", "--gpus", "2"]
    _, plan = as_json(capsys, *given)
    assert any("--chunked-prefill-size" in flags for flags in plan["would_fit_with"])
    for flags in plan["would_fit_with"]:
        assert as_json(capsys, *given, *flags.split())[0] == 0, flags


def test_plan_table_shows_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--gpu-memory-gib", "79.6", "--dtype", "fp8", "--tables", "host", "--kv-dtype", "fp8"]
    assert main([*arguments, "--chunked-prefill-size", "2048", "--runtime-gib", "1.5"]) == 0
    out = capsys.readouterr().out
    assert "assumed, SGLang's default for chunks of 2,048 tokens" in out
    assert "1.50  assumed (--runtime-gib)" in out
    assert "pinned host memory  58.50 GiB" in out
    assert "--kv-cache-dtype fp8_e4m3" in out
    assert out.rstrip().endswith("fits")


def test_plan_accepts_model_of_other_dimensions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    code, plan = as_json(capsys, "--gpu-memory-gib", "24", "--model", str(tmp_path))
    assert code == 0
    assert plan["assumptions"]["context_tokens"] == TINY.max_position_embeddings
    assert plan["gpu"]["weights_total_bytes"] < 10e6


def test_plan_knows_models_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    """As their authors deploy them: FP8 on 8 GPUs of 141 GB, bfloat16 on two such machines."""
    given = ["--gpu-memory-gib", "140.4", "--model", "flash-chat"]
    code, plan = as_json(capsys, *given, "--gpus", "8", "--dtype", "fp8")
    assert code == 0
    assert plan["assumptions"]["context_tokens"] == 131_072
    # Latents of two attentions in each of 28 layers, 576 values of two bytes.
    assert plan["kv_cache"]["bytes_per_token"] == 2 * 28 * 576 * 2
    assert "n-gram tables" not in plan["gpu"]["weights_bytes"]
    assert as_json(capsys, *given, "--gpus", "8")[0] == 1
    assert as_json(capsys, *given, "--gpus", "16")[0] == 0
    fp8 = ["--gpu-memory-gib", "140.4", "--model", "flash-thinking-2601-fp8", "--gpus", "8"]
    assert as_json(capsys, *fp8)[1]["assumptions"]["dtype"] == "fp8"


def test_plan_says_that_one_machine_is_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu-memory-gib", "79.6", "--gpus", "16", "--model", "flash-chat"]) == 1
    shown = capsys.readouterr().out
    assert "n-gram" not in shown
    assert "--tables" not in shown
    assert "one machine of 8 such GPUs is too small; an engine on several (SGLang's --nnodes)" in shown


def test_plan_refuses_a_place_for_tables_that_a_model_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--gpu-memory-gib", "140.4", "--model", "flash-chat", "--tables", "host"])
    assert "this model has no n-gram tables" in capsys.readouterr().err


def test_plan_takes_dtype_from_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    block = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    path.write_text(json.dumps({**LITE.to_dict(), "quantization_config": block}))
    _, plan = as_json(capsys, "--gpu-memory-gib", "140.4", "--model", str(tmp_path))
    assert plan["assumptions"]["dtype"] == "fp8"
    int4 = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
    path.write_text(json.dumps({**LITE.to_dict(), "quantization_config": int4}))
    assert main(["--gpu-memory-gib", "140.4", "--model", str(tmp_path)]) == 1
    assert "'auto-round, 4 bit, groups of 128' are not planned for" in capsys.readouterr().err


def test_plan_reports_wrong_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu-memory-gib", "80", "--model", str(tmp_path / "none")]) == 1
    assert "none' is not a checkpoint folder: it holds no config.json" in capsys.readouterr().err
    assert main(["--gpu-memory-gib", "80", "--model", str(tmp_path)]) == 1
    assert "is not a checkpoint folder: it holds no config.json" in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({**replace(TINY).to_dict(), "hidden_size": 97}))
    assert main(["--gpu-memory-gib", "80", "--model", str(tmp_path)]) == 1
    assert "hidden_size must be divisible" in capsys.readouterr().err


def test_plan_advice_after_host_memory_is_short_names_tables_on_the_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--gpu-memory-gib", "79.6", "--tables", "host", "--host-memory-gib", "32"]
    _, plan = as_json(capsys, *given)
    assert "--tables 8bit --gpus 2 --tp 2" in plan["would_fit_with"]
    assert "--dtype fp8 --tables device --gpus 2 --tp 2" in plan["would_fit_with"]
    for flags in plan["would_fit_with"]:
        assert as_json(capsys, *given, *flags.split())[0] == 0, flags


def test_plan_advice_without_a_way_claims_no_more_than_was_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--gpu-memory-gib", "4"]) == 1
    assert "no engine of up to 32 such GPUs fits, whatever --dtype" in capsys.readouterr().out


def test_plan_advice_that_is_not_shown_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    _, plan = as_json(capsys, "--gpu-memory-gib", "79.6")
    assert main(["--gpu-memory-gib", "79.6"]) == 1
    lines = capsys.readouterr().out.splitlines()
    shown = sum(line.startswith("would fit with") for line in lines)
    assert lines[-1] == f"and in {len(plan['would_fit_with']) - shown} more ways, which --json lists"


def served_examples() -> list[str]:
    """Options with which pages and help texts start the full model, on GPUs of 80 GB."""
    places = [*tracked_files("*.md"), ROOT / "server/serval/cli/serve.py"]
    text = "\n".join(path.read_text() for path in places if path.name != "CHANGELOG.md")
    one_line_each = re.sub(r"\\+\n", " ", text)
    found: list[str] = re.findall(r"--model /models/LongCat-Flash-Lite ([^\n\"]*)", one_line_each)
    return [options for options in found if "--tp" in options]


def test_plan_agrees_with_examples_that_start_the_full_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(served_examples()) >= 3
    for options in served_examples():
        words = options.split()
        given = {flag: words[words.index(flag) + 1] for flag in words if flag in PLANNED_FLAGS}
        flags = [word for flag, value in given.items() for word in (PLANNED_FLAGS[flag], value)]
        code, plan = as_json(capsys, "--gpu-memory-gib", "79.6", "--gpus", given["--tp"], *flags)
        assert code == 0, (options, plan["shortcomings"])


def test_plan_commands_on_pages_and_in_the_help_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    turn = {"messages": [{"role": "user", "content": "hello"}], "prompt_tokens": 5000}
    Path("sessions.json").write_text(json.dumps({"conversations": [[turn, turn]]}))
    names = ("decode_base_s", "decode_request_s", "prefill_base_s", "prefill_token_s")
    Path("rates.json").write_text(json.dumps({"costs": {**dict.fromkeys(names, 1e-5), "kv_tokens": 9000}}))
    with pytest.raises(SystemExit):
        main(["--help"])
    texts = [path.read_text() for path in tracked_files("*.md") if path.name != "CHANGELOG.md"]
    shown = "\n".join([*texts, capsys.readouterr().out])
    commands = re.findall(r"^(?:\$ | +)serval plan ((?:--[a-z-]+ [a-z0-9.-]+ ?)+)", shown, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        assert as_json(capsys, *command.split())[0] == 0, command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--gpu-memory-gib"),
        (["--gpu-memory-gib", "81559"], "did you give MiB? 81559 MiB are 79.6 GiB"),
        (["--gpu-memory-gib", "1e9"], "must be at most 1024 GiB, got 1e9"),
        (["--gpu-memory-gib", "80", "--host-memory-gib", "524288"], "524288 MiB are 512.0 GiB"),
        (["--gpu-memory-gib", "80", "--runtime-gib", "2048"], "2048 MiB are 2.0 GiB"),
        (["--gpu-memory-gib", "80GB"], "must be a number of GiB without a unit, such as 79.6, got '80GB'"),
        (["--gpu-memory-gib", "inf"], "must be a number of GiB without a unit, such as 79.6, got 'inf'"),
        (["--gpu-memory-gib", "0"], "must be positive, got 0"),
        (["--gpu-memory-gib", "nan"], "must be a number of GiB without a unit, such as 79.6, got 'nan'"),
        (["--gpu-memory-gib", "80", "--gpus", "-1"], "must be at least 1, got -1"),
        (["--gpu-memory-gib", "80", "--gpus", "two"], "invalid int value: 'two'"),
        (["--gpu-memory-gib", "80", "--reserve-gib", "-1"], "must be at least 0, got -1"),
        (["--gpu-memory-gib", "80", "--tables", "tape"], "invalid choice: 'tape'"),
        (["--gpu-memory-gib", "80", "--gpus", "3"], "tp 3 and ep 1 do not suit this model"),
        (["--gpu-memory-gib", "80", "--gpus", "2", "--tp", "4"], "gpus must be a multiple of tp"),
    ],
)
def test_plan_reports_wrong_use(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err
