"""Files that record a workload: agents' conversations in SGLang's format, and logs of lengths.

`python -m serval_load load agentx` replays them, and `serval plan --trace` plans for them. The gateway itself
reads none.
"""

from serval.workload_files.conversations import (
    Conversation,
    Spawn,
    Turn,
    cut,
    read_conversations,
    write_conversations,
)
from serval.workload_files.errors import WorkloadFileError
from serval.workload_files.lengths import Call, Session, Workload, read_workload

__all__ = [
    "Call",
    "Conversation",
    "Session",
    "Spawn",
    "Turn",
    "Workload",
    "WorkloadFileError",
    "cut",
    "read_conversations",
    "read_workload",
    "write_conversations",
]
