"""From a conversation to the token ids the model sees, with text never turning into control tokens."""

from serval.chat.render import ChatRenderer, RenderedPrompt, load_chat

__all__ = ["ChatRenderer", "RenderedPrompt", "load_chat"]
