"""Who may call: API keys, and tokens of an identity provider."""
