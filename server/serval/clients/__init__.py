"""`serval clients check`: recorded requests of agents and libraries, replayed against any server."""
