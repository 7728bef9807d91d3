"""The engine behind the gateway: SGLang's native `/generate`."""
