"""Processes of the gateway: start-up, serving, reloading, workers and supervision."""
