"""`serval checkpoint`: one module per subcommand, with `configure(parser)` and `run(args) -> code`."""
