"""What a child process may use. It sets its own limits, before it looks at what it was sent."""

import resource


def limit_resources(*, memory_bytes: int, cpu_seconds: int) -> None:
    """memory_bytes: of address space. No core is ever dumped."""
    limit_memory(memory_bytes)
    limit(resource.RLIMIT_CPU, cpu_seconds)


def limit_memory(num_bytes: int) -> None:
    """Of address space; and no core is left behind of a child that dies at it."""
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, num_bytes)


def limit(kind: int, value: int) -> None:
    """Both limits of a resource, no higher than they are."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
