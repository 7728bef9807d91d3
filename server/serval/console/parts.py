"""Parts of the gateway that the console's pages use."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from serval.api.context import ApiContext
from serval.auth.authenticator import Authenticator
from serval.auth.directory import KeyDirectory
from serval.console.attempts import SignInAttempts
from serval.console.samples import Samples
from serval.console.sessions import Sessions
from serval.console.signing import Signer
from serval.engine.protocol import ManagedEngine

if TYPE_CHECKING:
    from serval.console.identity_provider import IdentityProvider
    from serval.store.usage import UsageTable


@dataclass(frozen=True, kw_only=True)
class Console:
    """The console's parts. They do not change while it runs."""

    context: ApiContext
    # The inference API, as its port serves it.
    api: ASGIApp
    engine: ManagedEngine
    directory: KeyDirectory
    administrators: Authenticator
    usage: "UsageTable"
    signer: Signer
    sessions: Sessions
    attempts: SignInAttempts
    samples: Samples
    # None without an identity provider that signs in.
    provider: "IdentityProvider | None"

    @property
    def url(self) -> str | None:
        """Address of the console as browsers know it; None: that of the request."""
        return self.context.settings.console_url
