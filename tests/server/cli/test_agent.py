"""`serval agent`, with and without a server."""

import asyncio
import io
from pathlib import Path

import pytest

from serval.cli import main
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway
from serval_testkit.processes import free_port

OFFLINE = ["--model", "longcat", "--context-window", "131072"]


class Terminal(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


async def run(gateway: RunningGateway, *arguments: str) -> int:
    return await asyncio.to_thread(main, ["agent", *arguments, "--url", f"{gateway.url}/v1"])


async def test_model_and_window_come_from_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVAL_API_KEY", API_KEY)
    async with running_gateway() as gateway:
        assert await run(gateway, "codex") == 0
        out = capsys.readouterr().out
        assert f'model = "{MODEL}"' in out
        assert "model_context_window = 8192" in out
        assert out.endswith("\ncodex --profile serval\n")
        assert API_KEY not in out
        assert await run(gateway, "pi", "--output-limit", "100") == 0
        assert '"maxTokens": 100\n' in capsys.readouterr().out
        assert await run(gateway, "pi", "--model", "other") == 1
        assert f"has no model 'other'; it has {MODEL}" in capsys.readouterr().err
        monkeypatch.setenv("SERVAL_API_KEY", "sk-wrong")
        assert await run(gateway, "pi") == 1
        assert "does not accept the key" in capsys.readouterr().err


async def test_missing_key_and_base_url_without_v1_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SERVAL_API_KEY", raising=False)
    async with running_gateway() as gateway:
        assert await run(gateway, "codex") == 1
        assert "asks for a key, and none is in SERVAL_API_KEY" in capsys.readouterr().err
        monkeypatch.setenv("SERVAL_API_KEY", API_KEY)
        assert await asyncio.to_thread(main, ["agent", "codex", "--url", gateway.url]) == 1
    assert "does the base URL end in /v1?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["many", "0", "-1"])
def test_number_of_tokens_is_checked(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["agent", "pi", f"--context-window={text}"])
    assert f"{text!r} is not a number of tokens, at least 1" in capsys.readouterr().err


def test_output_limit_is_a_quarter_of_a_short_window(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "pi", "--model", "m", "--context-window", "8000"]) == 0
    assert '"maxTokens": 2000\n' in capsys.readouterr().out


def test_server_that_does_not_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    assert main(["agent", "codex", "--url", url]) == 1
    assert f"no server at {url}: start one with `serval serve`" in capsys.readouterr().err


def test_write_asks_before_it_replaces_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    profile = tmp_path / ".codex/serval.config.toml"
    assert main(["agent", "codex", *OFFLINE, "--write"]) == 0
    assert f"wrote {profile}" in capsys.readouterr().err
    text = profile.read_text()
    profile.write_text("mine")
    # Without a terminal nobody can be asked.
    assert main(["agent", "codex", *OFFLINE, "--write"]) == 1
    assert profile.read_text() == "mine"
    # The end of input is no answer either.
    for typed, code in (("", 1), ("n\n", 1), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        assert main(["agent", "codex", *OFFLINE, "--write"]) == code
        assert profile.read_text() == ("mine" if code else text)
