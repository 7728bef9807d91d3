"""Load tests of Serval: an engine stand-in, workloads, comparisons, a soak, and their reports."""
