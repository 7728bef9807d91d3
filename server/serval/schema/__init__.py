"""JSON Schema and JSON as tool arguments use them."""
