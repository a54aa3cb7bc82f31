"""What one program may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from dschat.errors import UserError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one program may use; the kernel enforces all but the wall-clock times.

    Attributes:
        test_seconds: wall-clock time of one test, and (rounded up) its CPU time; 4 s as in APPS.
        program_seconds: wall-clock time of all tests of a program together.
        memory_mb: address space of each process, in MiB.
        output_mb: size of each file, in MiB; standard output and error are files.
        processes: processes and threads that a program may have beside its own first one.
        open_files: descriptors of each process.
        scratch_mb: size of the private /tmp under bubblewrap, in MiB.

    Raises:
        UserError: a value is not positive (`processes` may be 0).
    """

    test_seconds: float = 4.0
    program_seconds: float = 30.0
    memory_mb: int = 1024
    output_mb: int = 4
    processes: int = 4
    open_files: int = 64
    scratch_mb: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            at_least_0 = field.name == "processes" and value == 0
            if not (math.isfinite(value) and value > 0) and not at_least_0:
                raise UserError(
                    f"The limit {field.name} of generated programs is {value}; expected a positive "
                    "finite number."
                )

    @property
    def cpu_seconds(self) -> int:
        """CPU time of one test; the kernel counts whole seconds."""
        return math.ceil(self.test_seconds)

    @property
    def output_bytes(self) -> int:
        """`output_mb` in bytes."""
        return self.output_mb * MEBIBYTE
