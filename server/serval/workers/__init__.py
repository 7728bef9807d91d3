"""Several gateway processes on one port: a parent that starts, watches and stops workers; it never serves."""
