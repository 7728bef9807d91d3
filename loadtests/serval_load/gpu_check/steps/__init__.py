"""All steps, in the order in which each minute tells most."""

from serval_load.gpu_check.step import Step
from serval_load.gpu_check.steps import adapter, full_size, kernels

STEPS: tuple[Step, ...] = (*kernels.FIRST, *adapter.STEPS, *kernels.REST, *full_size.STEPS)
