"""``serval checkpoint``: a module each subcommand, with ``configure(parser)`` and ``run(args) -> code``."""
