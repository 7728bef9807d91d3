"""The HTTP endpoints, one module each, as plain ASGI applications."""
