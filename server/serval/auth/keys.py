"""A fixed set of bearer API keys, compared in constant time over keyed hashes."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from serval.errors import AuthenticationError, SettingsError
from serval.settings import Settings


class ApiKeys:
    """The accepted keys. Only digests under a per-process random key are held in memory."""

    def __init__(self, keys: Iterable[str]) -> None:
        """An empty string marks a withdrawn key, so that later keys keep their index."""
        self._pepper = secrets.token_bytes(32)
        given = list(keys)
        self._digests = [self._digest(key or secrets.token_hex(20)) for key in given]
        self._withdrawn = frozenset(index for index, key in enumerate(given) if not key)

    def _digest(self, key: str) -> bytes:
        encoded = key.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(encoded, key=self._pepper, digest_size=32).digest()

    @property
    def required(self) -> bool:
        """True if there is at least one key."""
        return bool(self._digests)

    @property
    def count(self) -> int:
        """Number of keys, including withdrawn ones."""
        return len(self._digests)

    def holds(self, index: int) -> bool:
        """True if the key at `index` is not withdrawn."""
        return index < len(self._digests) and index not in self._withdrawn

    def accepts(self, key: str) -> bool:
        """True if `key` is one of the keys."""
        return self.index_of(key) is not None

    def index_of(self, key: str) -> int | None:
        """Index of `key` in the order they were given; None if it is not among them."""
        if not self._digests:
            return None
        digest = self._digest(key)
        # Every digest is compared, so that the time does not reveal which one matched.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return matches.index(True) if any(matches) else None


def bearer_key(authorization: str | None) -> str:
    """The key in an Authorization header. Raises `AuthenticationError` if there is none."""
    if authorization is None:
        raise AuthenticationError(
            "You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'."
        )
    scheme, _, key = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise AuthenticationError(
            "The Authorization header is not of the form 'Bearer YOUR_KEY'. Send your API key that way."
        )
    return key.strip()


def looks_like_token(bearer: str) -> bool:
    """True if this has the form of a JWT, which no API key has."""
    return bearer.startswith("eyJ") and bearer.count(".") == 2


def new_key() -> str:
    """A new API key: `sk-serval-<public id>-<secret>`, 160 random bits in the secret."""
    return f"sk-serval-{secrets.token_hex(4)}-{secrets.token_hex(20)}"


def ensure_key(settings: Settings) -> tuple[Settings, str | None]:
    """Settings with a means of authentication, and the API key if one had to be generated."""
    if settings.api_key is not None or settings.api_key_file is not None:
        return settings, None
    if settings.key_database is not None or settings.oidc_issuer is not None:
        return settings, None
    key = new_key()
    return settings.model_copy(update={"api_key": SecretStr(key)}), key


def read_key_file(path: Path) -> list[str]:
    """Keys of a file, one per line; blank lines and lines that start with `#` are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the API key file {str(path)!r}: {error}") from error
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise SettingsError(f"the API key file {str(path)!r} holds no key; put one key on each line")
    return keys


def configured_keys(settings: Settings) -> list[str]:
    """The keys of `SERVAL_API_KEY_FILE` and `SERVAL_API_KEY` together, each once. Raises `SettingsError`."""
    keys = [] if settings.api_key_file is None else read_key_file(settings.api_key_file)
    if settings.api_key is not None:
        key = settings.api_key.get_secret_value().strip()
        if not key:
            # An empty variable is a deployment mistake; treated as "no key" it would open the server.
            raise SettingsError("SERVAL_API_KEY is set but empty; give it a key or unset it")
        keys.append(key)
    return list(dict.fromkeys(keys))
