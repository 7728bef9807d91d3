"""`serval agent`: configuration that points a coding agent at a server."""
