"""The OpenAI wire format: request types, answers, stream frames."""
