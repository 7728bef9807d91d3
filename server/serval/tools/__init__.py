"""Reading tool calls, content and reasoning in the text of a model. Pure Python."""
