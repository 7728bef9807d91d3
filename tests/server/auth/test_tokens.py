"""Tokens of an identity provider: accepted and forged ones, and changes of the issuer's keys."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.algorithms import RSAAlgorithm

from serval.auth.factory import inference_authenticator, open_tokens
from serval.auth.tokens import TokenVerifier
from serval.errors import AuthenticationError, AuthUnavailableError, SettingsError
from serval.settings import Settings
from serval_testkit.issuer import Issuer, jwk, public_pem, rsa_key, token


@pytest_asyncio.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer().running() as running:
        yield running


def verifier_of(issuer: Issuer, **changes: Any) -> TokenVerifier:
    verifier = open_tokens(Settings(**issuer.settings(**changes)))
    assert verifier is not None
    return verifier


class Clock:
    """A stand-in for the verifier's monotonic clock, so that no test waits."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_clock(verifier: TokenVerifier) -> Clock:
    clock = Clock()
    verifier.keys._monotonic = clock
    return clock


async def test_identify_token_gives_the_caller_and_its_permissions(issuer: Issuer) -> None:
    identity = await verifier_of(issuer).identify(token(scope="openid inference grammar"))
    assert identity.key_id == "oidc:alice"
    assert identity.scopes == {"inference", "grammar"}
    assert identity.models is None


async def test_identify_reads_the_configured_claims(issuer: Issuer) -> None:
    verifier = verifier_of(
        issuer,
        oidc_caller_claim="tenant",
        oidc_scope_claim="roles",
        oidc_scope_prefix="serval:",
        oidc_models_claim="models",
    )
    good = token(tenant="acme", roles=["serval:inference", "grammar", 3], models=["m1", "m2"])
    identity = await verifier.identify(good)
    assert (identity.key_id, identity.scopes) == ("oidc:acme", {"inference"})
    assert identity.models == {"m1", "m2"}
    # A token without the claim is for no model: a forgotten claim must not allow all of them.
    assert (await verifier.identify(token(tenant="acme"))).models == frozenset()


async def test_identify_token_never_has_the_admin_scope(issuer: Issuer) -> None:
    assert (await verifier_of(issuer).identify(token(scope="inference admin"))).scopes == {"inference"}


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
        (rsa_key("k1"), "PS256"),
    ],
)
async def test_identify_accepts_each_signature_algorithm(issuer: Issuer, key: Any, algorithm: str) -> None:
    issuer.keys = [jwk("k1", key)]
    assert await verifier_of(issuer).identify(token(key, algorithm=algorithm))


def segment(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def claims_of(signed: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(signed, options={"verify_signature": False})
    return claims


def unsigned(algorithm: str = "none") -> str:
    return f"{segment({'alg': algorithm, 'typ': 'JWT', 'kid': 'k1'})}.{segment(claims_of(token()))}."


def hs256_with_the_public_key() -> str:
    signing = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': 'k1'})}.{segment(claims_of(token()))}"
    mac = hmac.digest(public_pem(rsa_key("k1")), signing.encode(), hashlib.sha256)
    return f"{signing}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def with_a_number_for_key_id() -> str:
    _, claims, signature = token().split(".")
    return f"{segment({'alg': 'RS256', 'kid': 7})}.{claims}.{signature}"


def with_other_claims() -> str:
    head, _, signature = token().split(".")
    return f"{head}.{segment(claims_of(token()) | {'sub': 'root'})}.{signature}"


FORGED = {
    "no algorithm": (unsigned, "algorithm"),
    "no algorithm, in capitals": (lambda: unsigned("None"), "algorithm"),
    "the public key as a shared secret": (hs256_with_the_public_key, "algorithm"),
    "an algorithm that is not allowed": (lambda: token(algorithm="RS512"), "algorithm"),
    "other claims": (with_other_claims, "signature"),
    "another key under the same id": (lambda: token(rsa_key("other")), "signature"),
    "a key of its own in the header": (
        lambda: token(rsa_key("other"), key_id="mine", header={"jwk": jwk("mine", rsa_key("other"))}),
        "does not list",
    ),
    "a path for a key id": (lambda: token(key_id="../../../dev/null"), "does not list"),
    "an address for a key id": (lambda: token(key_id="http://127.0.0.1:1/jwks"), "does not list"),
    "a key id that is no text": (with_a_number_for_key_id, "cannot be read"),
    "a part that must be understood": (
        lambda: token(header={"crit": ["b64x"], "b64x": True}),
        "cannot be read",
    ),
    "expired": (lambda: token(expires_in_s=-31), "expired"),
    "not valid yet": (lambda: token(nbf=time.time() + 300), "not valid yet"),
    "issued in the future": (lambda: token(iat=time.time() + 300), "not valid yet"),
    "another audience": (lambda: token(aud="someone-else"), "audience"),
    "another issuer": (lambda: token(iss="https://login.example.evil"), "issuer"),
    "no expiry": (lambda: token(exp=None), "lacks a claim"),
    "no audience": (lambda: token(aud=None), "lacks a claim"),
    "nobody": (lambda: token(sub=None), "lacks a claim"),
    "a caller with a line break": (lambda: token(sub="alice\nbob"), "printable"),
    "no JSON": (lambda: "eyJ.eyJ.eyJ", "cannot be read"),
    "too long": (lambda: token(padding="x" * 20_000), "more than"),
}


@pytest.mark.parametrize("name", FORGED)
async def test_identify_bad_token_is_refused_with_the_reason(issuer: Issuer, name: str) -> None:
    make, reason = FORGED[name]
    bad = make()
    verifier = verifier_of(issuer)
    with pytest.raises(AuthenticationError, match=reason) as error:
        await verifier.identify(bad)
    assert bad not in str(error.value)
    assert await verifier.identify(token())


ODD_VALUES = [
    "1" + "0" * 400,
    "-1" + "0" * 400,
    "1e400",
    "-Infinity",
    "NaN",
    "9" * 5000,
    '"' + "9" * 400 + '"',
    '"x"',
    '""',
    '"\\ud800"',
    "[]",
    "{}",
    "[[null]]",
    "null",
    "true",
    "1.5",
    "[" * 5000 + "]" * 5000,
]


def signed(claims: dict[str, str]) -> str:
    """Return a token with these claims, given as JSON text, so that any number can be written."""
    payload = "{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in claims.items()) + "}"
    return jwt.PyJWS().encode(payload.encode(), rsa_key("k1"), algorithm="RS256", headers={"kid": "k1"})


@pytest.mark.parametrize(
    "claim", ["exp", "nbf", "iat", "iss", "aud", "sub", "scope", "models", "jti", "more"]
)
async def test_identify_odd_claim_is_an_identity_or_refused(issuer: Issuer, claim: str) -> None:
    """Never another error, whatever an issuer signs: numbers beyond any float, other types, deep nesting."""
    verifier = verifier_of(issuer, oidc_models_claim="models")
    usual = {name: json.dumps(value) for name, value in claims_of(token()).items()}
    for value in ODD_VALUES:
        try:
            await verifier.identify(signed(usual | {claim: value}))
        except AuthenticationError:
            continue
    if claim == "exp":
        with pytest.raises(AuthenticationError, match="cannot be read"):
            await verifier.identify(signed(usual | {"exp": ODD_VALUES[0]}))


async def test_identify_tolerates_a_small_clock_difference(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    assert await verifier.identify(token(expires_in_s=-10))
    assert await verifier.identify(token(nbf=time.time() + 10))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "kid": "k1", "k": base64.urlsafe_b64encode(b"s" * 32).decode()},
        jwk("k1", rsa_key("k1"), use="enc"),
        jwk("k1", rsa_key("k1"), key_ops=["encrypt"]),
        jwk("k1", rsa_key("k1"), alg="HS256"),
        jwk("k1", rsa_key("short", 1024)),
        {**json.loads(RSAAlgorithm.to_jwk(rsa_key("k1"))), "kid": "k1", "key_ops": ["verify"]},
        {**jwk("k1", rsa_key("k1")), "n": "!"},
        {"kty": "RSA", "kid": 1},
    ],
    ids=["secret", "encryption", "operation", "algorithm", "short", "private", "broken", "id"],
)
async def test_read_jwks_leaves_out_keys_that_must_not_verify(issuer: Issuer, entry: dict[str, Any]) -> None:
    issuer.keys = [entry, jwk("k2", rsa_key("k2"))]
    verifier = verifier_of(issuer)
    assert await verifier.identify(token(rsa_key("k2"), key_id="k2"))
    secret = b"s" * 32
    for attempt in (token(), token(secret, algorithm="HS256"), token(rsa_key("short", 1024))):
        with pytest.raises(AuthenticationError):
            await verifier.identify(attempt)


async def test_identify_token_without_key_id_is_accepted_if_there_is_one_key(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    assert await verifier.identify(token(key_id=None))
    issuer.keys.append(jwk("k2", rsa_key("k2")))
    with pytest.raises(AuthenticationError):
        await verifier_of(issuer).identify(token(key_id=None))


async def test_issuer_keys_fetch_an_unknown_key(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    clock = with_clock(verifier)
    old, new = token(), token(rsa_key("k2"), key_id="k2")
    await verifier.identify(old)
    issuer.keys = [jwk("k2", rsa_key("k2"))]
    clock.now += 10
    assert await verifier.identify(new)
    # The old key is gone from the list, so its tokens are refused, remembered or not.
    with pytest.raises(AuthenticationError, match="does not list"):
        await verifier.identify(old)
    assert issuer.asked == 2


async def test_issuer_keys_fetch_once_for_a_flood_of_unknown_keys(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    with_clock(verifier)
    await verifier.identify(token())
    flood = [verifier.identify(token(key_id=f"k{number}")) for number in range(100, 300)]
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert {type(result) for result in results} == {AuthenticationError}
    assert issuer.asked == 1
    assert await verifier.identify(token())


async def test_issuer_keys_bound_the_requests_that_wait(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    issuer.answering.clear()
    waiting = [asyncio.create_task(verifier.identify(token())) for _ in range(256)]
    await issuer.asked_again()
    with pytest.raises(AuthUnavailableError) as error:
        await verifier.identify(token())
    assert error.value.headers["retry-after"] == "2"
    waiting.pop().cancel()  # cancelling one must not cancel the others
    issuer.answering.set()
    assert {identity.key_id for identity in await asyncio.gather(*waiting)} == {"oidc:alice"}
    assert issuer.asked == 1


async def test_issuer_keys_known_keys_work_while_the_issuer_is_away(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    clock = with_clock(verifier)
    await verifier.identify(token())
    issuer.status = 500
    clock.now += 3599
    assert await verifier.identify(token(sub="bob"))
    clock.now += 2
    with pytest.raises(AuthUnavailableError):
        await verifier.identify(token(sub="carol"))
    issuer.status = 200
    clock.now += 10
    assert await verifier.identify(token(sub="carol"))


async def test_issuer_keys_watch_picks_up_changes(issuer: Issuer) -> None:
    verifier = verifier_of(issuer, oidc_refresh_s=0.01)
    watch = asyncio.create_task(verifier.keys.watch())
    try:
        await issuer.asked_again()
        issuer.keys = [jwk("k2", rsa_key("k2"))]
        # The second fetch begins when the first one's document has been read.
        for _ in range(3):
            await issuer.asked_again()
        with pytest.raises(AuthenticationError):
            await verifier.identify(token())
    finally:
        watch.cancel()


async def test_issuer_keys_unusable_document_keeps_the_old_keys(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    clock = with_clock(verifier)
    await verifier.identify(token())
    for keys in ([], [{"kty": "RSA"}] * 101, "no list"):
        issuer.keys = keys  # type: ignore[assignment]
        clock.now += 10
        with pytest.raises(AuthenticationError):
            await verifier.identify(token(key_id="new"))
    assert issuer.asked == 4
    assert await verifier.identify(token(sub="bob"))


async def test_issuer_keys_do_not_follow_redirects(issuer: Issuer) -> None:
    verifier = verifier_of(issuer, oidc_jwks=issuer.url.replace("jwks", "moved"))
    with pytest.raises(AuthUnavailableError):
        await verifier.identify(token())
    assert issuer.asked == 0


async def test_identify_verifies_a_token_once_until_it_expires(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = verifier_of(issuer, oidc_leeway_s=0)
    good = token()
    first = await verifier.identify(good)
    with monkeypatch.context() as patch:
        patch.setattr(jwt, "decode", None)
        assert await verifier.identify(good) is first
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 301)
    monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("checked again"))
    with pytest.raises(pytest.fail.Exception):
        await verifier.identify(good)


async def test_identify_remembers_a_bounded_number_of_tokens(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.auth.tokens._MAX_REMEMBERED", 3)
    verifier = verifier_of(issuer)
    for number in range(5):
        await verifier.identify(token(sub=f"u{number}"))
        with pytest.raises(AuthenticationError):
            await verifier.identify(token(rsa_key("other"), sub=f"u{number}"))
    assert len(verifier._remembered) == 3
    assert not any(isinstance(part, str) for part in verifier._remembered)


async def test_issuer_keys_are_read_from_a_file(issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": issuer.keys}))
    verifier = verifier_of(issuer, oidc_jwks=str(file))
    assert await verifier.identify(token())
    assert issuer.asked == 0
    file.write_text(json.dumps({"keys": [jwk("k2", rsa_key("k2"))]}))
    with_clock(verifier)
    assert await verifier.identify(token(rsa_key("k2"), key_id="k2"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"oidc_jwks": "http://login.example/jwks"}, "plain HTTP"),
        ({"oidc_jwks": "no-such-file.json"}, "cannot use the JWKS file"),
        ({"oidc_algorithms": "RS256 HS256"}, "choose from"),
        ({"oidc_algorithms": "none"}, "choose from"),
        ({"oidc_algorithms": ""}, "choose from"),
        ({"oidc_audience": None}, "SERVAL_OIDC_AUDIENCE"),
    ],
)
async def test_open_tokens_unsafe_settings_are_refused(
    issuer: Issuer, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        verifier_of(issuer, **changes)


async def test_authenticator_with_an_issuer_alone_is_not_open(issuer: Issuer) -> None:
    settings = Settings(**issuer.settings())
    authenticator = inference_authenticator(settings, [], None, open_tokens(settings))
    with pytest.raises(AuthenticationError):
        await authenticator.identify(None)
    with pytest.raises(AuthenticationError, match="Incorrect API key"):
        await authenticator.identify("Bearer sk-serval-none-such")
    assert (await authenticator.identify(f"Bearer {token()}")).key_id == "oidc:alice"


async def test_caller_with_a_token_is_accepted_no_more_without_an_issuer(issuer: Issuer) -> None:
    verifier = verifier_of(issuer)
    identity = await verifier.identify(token())
    assert inference_authenticator(Settings(), ["k"], None, verifier).again(identity) == identity
    with pytest.raises(AuthenticationError):
        inference_authenticator(Settings(), ["k"], None).again(identity)
