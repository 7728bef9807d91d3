"""The engine stand-in: SGLang's protocol without a model. For tests of the gateway only."""
