"""GPUs that CUDA shows to a process, asked of the driver: torch would take seconds and half a gigabyte."""

import ctypes
import subprocess
import sys

DRIVER = "libcuda.so.1"

# Both functions return 0 for success, and create no context on a GPU.
_COUNT = """\
import ctypes, sys
driver, count = ctypes.CDLL(sys.argv[1]), ctypes.c_int()
if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
    sys.exit(1)
print(count.value)
"""


def visible_gpus() -> int:
    """Return the number of GPUs that CUDA shows, after CUDA_VISIBLE_DEVICES; 0 without a driver or a GPU."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    # In a process of its own, whose end gives the driver's memory back.
    command = [sys.executable, "-P", "-c", _COUNT, DRIVER]
    counted = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(counted.stdout) if counted.returncode == 0 else 0
