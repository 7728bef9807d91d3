"""Commands of `serval` that need the engine's packages; `serval` runs each in a separate process."""
