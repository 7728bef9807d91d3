"""Prometheus metrics of the engine beside SGLang's own, and the page that serves both."""
