"""One module per command: `configure` adds its options, `run` executes it."""
