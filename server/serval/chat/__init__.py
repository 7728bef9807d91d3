"""Rendering a conversation to token ids so that text never turns into control tokens."""

from serval.chat.render import ChatRenderer, RenderedPrompt, load_chat

__all__ = ["ChatRenderer", "RenderedPrompt", "load_chat"]
