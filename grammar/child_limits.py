"""Limits that a child process puts on itself before it reads what nobody vouches for."""

import resource


def limit(kind: int, value: int) -> None:
    """Lower both limits of `kind` (resource.RLIMIT_…) to `value`, or to the hard limit there is."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def limit_memory(num_bytes: int) -> None:
    """Of address space; and no core is left behind of a child that dies at it."""
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, num_bytes)
