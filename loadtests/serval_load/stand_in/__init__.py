"""Engine stand-in: SGLang's protocol without a model, for tests of the gateway."""
