"""JSON and JSON Schema, as tool arguments use them."""
