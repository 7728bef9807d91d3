"""`serval checkpoint`: a tiny checkpoint is written, inspected, pinned and verified after tampering."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from serval_sglang.checkpoint.files import load_config
from serval_sglang.checkpoint.layout import TABLE_DTYPE_KEY, mtp_tensor_shapes
from serval_sglang.checkpoint.manifest import MANIFEST_FILE
from serval_sglang.cli.checkpoint.__main__ import main
from serval_sglang.known_configs import TINY
from serval_sglang.siblings import ARCHITECTURES

SMALL = ("--num-layers", "1", "--n-routed-experts", "4", "--moe-topk", "3")


class Run:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> Run:
        code = main([str(argument) for argument in arguments])
        return Run(code, *capsys.readouterr())

    return run


@pytest.fixture
def checkpoint(tmp_path: Path, run: Any) -> Path:
    directory = tmp_path / "tiny"
    assert run("tiny", directory, *SMALL).code == 0
    return directory


def test_tiny_accepts_every_dimension_seed_and_dtype(tmp_path: Path, run: Any) -> None:
    flags = ["--hidden-size", "60", "--emb-neighbor-num", "3", "--emb-split-num", "2", "--vocab-size", "301"]
    flags += ["--routed-scaling-factor", "2.5", "--no-mla-scale-q-lora", "--yarn-factor", "4"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("tiny", tmp_path / name, *SMALL, *flags, "--seed", seed, "--dtype", "float32").code == 0
    config = load_config(tmp_path / "a")
    assert (config.hidden_size, config.emb_neighbor_num, config.emb_split_num) == (60, 3, 2)
    assert (config.vocab_size, config.routed_scaling_factor, config.mla_scale_q_lora) == (301, 2.5, False)
    assert config.rope_scaling is not None
    assert config.rope_scaling.factor == 4
    assert config.ffn_hidden_size == TINY.ffn_hidden_size
    weights = {name: (tmp_path / name / "model.safetensors").read_bytes() for name in "abc"}
    assert weights["a"] == weights["b"] != weights["c"]
    with safe_open(tmp_path / "a" / "model.safetensors", framework="np") as file:
        assert file.get_slice("lm_head.weight").get_dtype() == "F32"


def test_tiny_adds_mtp_layer_beside_same_weights(checkpoint: Path, tmp_path: Path, run: Any) -> None:
    assert run("tiny", tmp_path / "mtp", *SMALL, "--mtp").code == 0
    plain, with_mtp = (load_file(path / "model.safetensors") for path in (checkpoint, tmp_path / "mtp"))
    assert with_mtp.keys() - plain.keys() == mtp_tensor_shapes(load_config(checkpoint)).keys()
    assert all(torch.equal(with_mtp[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("removed", "presence", "said", "code"),
    [
        ((), "complete", "MTP layer     yes", 0),
        (("model.mtp.norm.weight",), "partial", "MTP layer     in part", 1),
        (tuple(mtp_tensor_shapes(TINY)), "none", "MTP layer     none", 0),
    ],
)
def test_inspect_tells_presence_of_mtp_layer(
    tmp_path: Path, run: Any, removed: tuple[str, ...], presence: str, said: str, code: int
) -> None:
    assert run("tiny", tmp_path, *SMALL, "--mtp").code == 0
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if name not in removed}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    result = run("inspect", tmp_path)
    assert (result.code, said in result.out) == (code, True)
    found = run("inspect", tmp_path, "--json").json
    assert found["mtp"] == presence
    assert found["missing"] == (list(removed) if presence == "partial" else [])


def test_tiny_refuses_invalid_model_before_writing(tmp_path: Path, run: Any) -> None:
    result = run("tiny", tmp_path / "new", "--hidden-size", "97")
    assert result.code == 1
    assert "serval checkpoint tiny: error: hidden_size must be divisible" in result.err
    assert not (tmp_path / "new").exists()


def test_tiny_does_not_overwrite_weights(checkpoint: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Importing torch takes seconds.
    monkeypatch.setitem(sys.modules, "serval_sglang.checkpoint.tiny", None)
    result = run("tiny", checkpoint, *SMALL)
    assert result.code == 1
    assert "already holds ['model.safetensors']" in result.err


def test_inspect_shows_tiny_checkpoint(checkpoint: Path, run: Any) -> None:
    result = run("inspect", checkpoint, "--json")
    assert result.code == 0
    found = result.json
    assert found["complete"] is True
    assert found["architecture"] == "LongcatFlashNgramForCausalLM"
    assert found["context_tokens"] == TINY.max_position_embeddings
    assert found["quantization"] is None
    assert found["parts"]["experts"]["tensors"] == 4 * 3
    assert found["parts"]["router"]["dtypes"] == ["F32"]
    assert found["size_bytes"] == sum(part["size_bytes"] for part in found["parts"].values())
    header_and_weights = (checkpoint / "model.safetensors").stat().st_size
    assert header_and_weights * 0.9 < found["size_bytes"] < header_and_weights
    table = run("inspect", checkpoint)
    assert table.code == 0
    assert "n-gram tables" in table.out
    assert table.out.rstrip().endswith("complete")
    assert "not complete" not in table.out


def test_inspect_shows_fp8(tmp_path: Path, run: Any) -> None:
    assert run("tiny", tmp_path, *SMALL, "--fp8").code == 0
    found = run("inspect", tmp_path, "--json").json
    assert found["complete"] is True
    assert found["quantization"] == {
        "method": "fp8",
        "weight_bits": 8,
        "group_size": None,
        "block": [128, 128],
    }
    assert found["parts"]["experts"]["dtypes"] == ["F32", "F8_E4M3"]


def test_inspect_refuses_wrong_model_and_warns_of_code(checkpoint: Path, run: Any) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"num_layers": 2, "auto_map": {"AutoConfig": "configuration_longcat_ngram.Config"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "modeling_longcat_ngram.py").write_text("raise SystemExit('this code was run')")
    result = run("inspect", checkpoint)
    assert result.code == 1
    assert "missing tensors (38):" in result.out
    assert "  model.layers.1.input_layernorm.0.weight" in result.out
    assert "and 18 more" in result.out
    assert "not complete: this is not the model that config.json describes" in result.out
    found = run("inspect", checkpoint, "--json").json
    assert len(found["missing"]) == 38
    assert {unsafe["path"]: unsafe["hazard"] for unsafe in found["unsafe"]} == {
        "config.json": "remote-code",
        "modeling_longcat_ngram.py": "remote-code",
    }


def test_inspect_names_a_foreign_architecture_and_nothing_else(tmp_path: Path, run: Any) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = run("inspect", tmp_path, "--json")
    assert found.code == 1
    says = f"config.json is that of a LlamaForCausalLM; Serval serves {', '.join(ARCHITECTURES)}"
    assert found.json["problems"] == [says]
    assert found.json["complete"] is False
    shown = run("inspect", tmp_path)
    assert says in shown.out
    assert "must be given" not in shown.out


@pytest.mark.parametrize("name", ["LongcatFlashNgramForCausalLM", "LongcatFlashForCausalLM"])
def test_inspect_accepts_both_names_of_the_architecture(checkpoint: Path, run: Any, name: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    assert run("inspect", checkpoint).code == 0


def test_inspect_warns_of_files_that_serving_needs(checkpoint: Path, run: Any) -> None:
    assert run("inspect", checkpoint, "--json").json["lacks"] == []
    assert "cannot be served" not in run("inspect", checkpoint).out
    (checkpoint / "tokenizer_config.json").unlink()
    # The engine refuses such a folder, although the chat template is there.
    assert run("inspect", checkpoint, "--json").json["lacks"] == ["tokenizer_config.json"]
    for file in ("tokenizer.json", "chat_template.jinja"):
        (checkpoint / file).unlink()
    result = run("inspect", checkpoint)
    assert result.code == 0, "the weights are complete"
    assert "missing files without which it cannot be served (3):\n  tokenizer.json\n" in result.out
    assert "  tokenizer_config.json\n" in result.out
    assert "  chat_template.jinja, or a tokenizer_config.json with a chat template\n" in result.out


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_inspect_shows_eight_bit_tables_as_quantisation(checkpoint: Path, run: Any, dtype: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, TABLE_DTYPE_KEY: dtype}))
    assert f"quantisation  none, n-gram tables in {dtype}\n" in run("inspect", checkpoint).out
    assert run("inspect", checkpoint, "--json").json["table_dtype"] == dtype


def test_quantize_tables_shows_each_error_once_and_what_was_written(
    checkpoint: Path, tmp_path: Path, run: Any
) -> None:
    target = tmp_path / "eight"
    result = run("quantize-tables", checkpoint, target)
    assert result.code == 0
    head, *rows, blank, written = result.out.splitlines()
    tables = TINY.ngram_table_count
    assert head.split()[:2] == ["table", "rows"]
    assert [row.split()[0] for row in rows] == [str(table) for table in range(tables)]
    assert blank == ""
    assert re.fullmatch(rf"written to {target}: \S+ [kM]B of weights instead of \S+ [kM]B", written)
    assert "error" not in result.err
    assert result.err.splitlines()[-1] == f"{tables} of {tables} n-gram tables written"


def test_verify_hash_accepts_pinned_checkpoint(checkpoint: Path, run: Any) -> None:
    made = run("hash", checkpoint, "--json").json
    assert made["manifest"] == str(checkpoint / MANIFEST_FILE)
    assert "config.json" in made["files"]
    assert "model.safetensors" in made["files"]
    again = run("verify-hash", checkpoint)
    assert again.code == 0
    assert f"{len(made['files'])} of {len(made['files'])} files are as pinned" in again.out
    # Rewriting the manifest does not pin the manifest itself.
    assert run("hash", checkpoint, "--json", "--threads", "1").json == made


def test_verify_hash_with_external_manifest_ignores_local_one(
    checkpoint: Path, tmp_path: Path, run: Any
) -> None:
    pin = tmp_path / "pin.sha256"
    assert run("hash", checkpoint, "--out", pin).code == 0
    assert run("hash", checkpoint).code == 0
    assert run("verify-hash", checkpoint, "--manifest", pin).code == 0
    inside = checkpoint / "pin.sha256"
    inside.write_bytes(pin.read_bytes())
    assert run("verify-hash", checkpoint, "--manifest", inside).code == 0


def test_verify_hash_detects_tampering(checkpoint: Path, tmp_path: Path, run: Any) -> None:
    pin = tmp_path / "pin.sha256"
    assert run("hash", checkpoint, "--out", pin).code == 0
    assert not (checkpoint / MANIFEST_FILE).exists()
    weights = bytearray((checkpoint / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(weights)
    (checkpoint / "tokenizer.json").rename(checkpoint / "tokenizer.old.json")
    result = run("verify-hash", checkpoint, "--manifest", pin)
    assert result.code == 1
    assert "changed  model.safetensors\n" in result.out
    assert "missing  tokenizer.json\n" in result.out
    assert "extra    tokenizer.old.json\n" in result.out
    found = run("verify-hash", checkpoint, "--manifest", pin, "--json").json
    assert found == {
        "matches": False,
        "files": 5,
        "changed": ["model.safetensors"],
        "missing": ["tokenizer.json"],
        "extra": ["tokenizer.old.json"],
    }


@pytest.mark.parametrize(
    ("name", "hazard"), [("pytorch_model.bin", "pickle"), ("modeling_longcat_ngram.py", "remote-code")]
)
def test_hash_refuses_unsafe_files_unless_allowed(checkpoint: Path, run: Any, name: str, hazard: str) -> None:
    (checkpoint / name).touch()
    result = run("hash", checkpoint)
    assert result.code == 1
    assert f"{name}: " in result.err
    assert f"--allow {hazard}" in result.err
    assert not (checkpoint / MANIFEST_FILE).exists()
    assert run("hash", checkpoint, "--allow", hazard).code == 0
    # A pinned file is not necessarily safe.
    assert run("verify-hash", checkpoint).code == 1
    assert run("verify-hash", checkpoint, "--allow", hazard).code == 0


def test_verify_hash_requires_manifest(checkpoint: Path, run: Any) -> None:
    result = run("verify-hash", checkpoint)
    assert result.code == 1
    manifest = checkpoint / MANIFEST_FILE
    assert f"there is no manifest {manifest}; `serval checkpoint hash` writes one" in result.err
    manifest.mkdir()
    assert f"the manifest {manifest} cannot be read" in run("verify-hash", checkpoint).err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["inspect"],
        ["inspect", "/nowhere"],
        ["hash", ".", "--threads", "0"],
        ["hash", ".", "--allow", "everything"],
        ["tiny", "x", "--dtype", "int3"],
    ],
)
def test_checkpoint_command_reports_wrong_use(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err
