"""Memory of this machine's GPUs, as the driver's tool reports it."""

import shutil
import subprocess

_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


class UnknownMemoryError(RuntimeError):
    """The memory of the GPUs cannot be determined."""


def gpu_memory_bytes() -> int:
    """Return the memory in bytes of this machine's smallest GPU, as nvidia-smi shows it.

    torch is not asked, because it would hold memory of the GPU for as long as this process runs.
    Raises `UnknownMemoryError` if nvidia-smi is missing or fails.
    """
    program = shutil.which(_QUERY[0])
    if program is None:
        raise UnknownMemoryError("there is no nvidia-smi here; give --gpu-memory-gib.")
    done = subprocess.run([program, *_QUERY[1:]], capture_output=True, text=True, check=False)
    mib = [int(line) for line in done.stdout.split() if line.isdigit()]
    if done.returncode != 0 or not mib:
        raise UnknownMemoryError(
            f"nvidia-smi shows no GPU's memory ({(done.stderr or done.stdout).strip()!r}); "
            "give --gpu-memory-gib."
        )
    return min(mib) << 20
