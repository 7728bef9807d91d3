"""How a pair of engines is written: one computes prompts (prefill), the other answers (decode).

    pd+http://prefill:30000|http://decode:30000?bootstrap_port=8998

The port is that of SGLang's `--disaggregation-bootstrap-port` at the prefill engine; 8998 if it is left out.
"""

from typing import Final
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from serval.engine.connection import peer_of
from serval.errors import SettingsError

MARK: Final = "pd+"
_USUAL_PORT: Final = 8998
_PORT: Final = "bootstrap_port"
_FORM: Final = "pd+http://PREFILL:PORT|http://DECODE:PORT?bootstrap_port=8998"


class PairUrl(Struct, frozen=True):
    """The base URLs of both engines, and the port at which the decode engine meets the prefill engine."""

    prefill: str
    decode: str
    bootstrap_port: int = _USUAL_PORT

    @property
    def text(self) -> str:
        """The pair in its one written form."""
        return f"{MARK}{self.prefill}|{self.decode}?{_PORT}={self.bootstrap_port}"

    @property
    def name(self) -> str:
        """Its name in metrics and messages."""
        halves = (urlsplit(self.prefill), urlsplit(self.decode))
        return "|".join(f"{half.netloc}{half.path}" for half in halves)

    @property
    def bootstrap_host(self) -> str:
        """The prefill engine's host; an IPv6 address has brackets, as SGLang's own balancer sends it."""
        host = urlsplit(self.prefill).hostname or ""
        return f"[{host}]" if ":" in host else host


def is_pair(text: str) -> bool:
    """Return True if the engine is written as a pair."""
    return text.startswith(MARK)


def pair_of(text: str) -> PairUrl:
    """Return the pair. Raises `SettingsError` if it is not of the right form."""
    halves = text.removeprefix(MARK).split("|")
    if not is_pair(text) or len(halves) != 2:
        raise SettingsError(f"the pair of engines {text!r} must be of the form {_FORM}")
    prefill, _, misplaced = halves[0].partition("?")
    decode, _, query = halves[1].partition("?")
    for url in (prefill, decode):
        if url.startswith("dns+"):
            raise SettingsError(f"the pair of engines {text!r} names both by URL, not by dns+")
        peer_of(url, api_key=None, connect_timeout_s=1, stall_timeout_s=1)
    prefill, decode = prefill.rstrip("/"), decode.rstrip("/")
    if prefill == decode:
        raise SettingsError(f"the pair of engines {text!r} names one engine twice")
    given = parse_qsl(query, keep_blank_values=True)
    if misplaced or any(name != _PORT for name, _ in given):
        raise SettingsError(f"the pair of engines {text!r} takes ?{_PORT}=PORT at its end, and nothing else")
    return PairUrl(prefill, decode, _port(text, dict(given).get(_PORT, str(_USUAL_PORT))))


def _port(text: str, given: str) -> int:
    if not (given.isascii() and given.isdigit() and 0 < int(given) < 65536):
        raise SettingsError(f"the pair of engines {text!r} needs a {_PORT} from 1 to 65535, not {given!r}")
    return int(given)
