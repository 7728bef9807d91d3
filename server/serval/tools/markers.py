"""LongCat's markers."""

from typing import Final

TOOL_CALL_OPEN: Final = "<longcat_tool_call>"
TOOL_CALL_CLOSE: Final = "</longcat_tool_call>"
KEY_OPEN: Final = "<longcat_arg_key>"
KEY_CLOSE: Final = "</longcat_arg_key>"
VALUE_OPEN: Final = "<longcat_arg_value>"
VALUE_CLOSE: Final = "</longcat_arg_value>"
THINK_OPEN: Final = "<longcat_think>"
THINK_CLOSE: Final = "</longcat_think>"
END_OF_TURN: Final = "</longcat_s>"
