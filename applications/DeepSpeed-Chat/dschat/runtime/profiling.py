"""A torch profiler trace of chosen iterations of an online run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dschat.runtime import distributed
from dschat.settings.command_line import require
from dschat.settings.online import profiled_iterations


class StepProfiler:
    """Traces some iterations of a run, and costs the others nothing.

    Args:
        iterations: a run of them, counted from 1; empty: none.
        folder: gets iterations-A-B.json, in Chrome's trace format.
    """

    def __init__(self, iterations: range, folder: Path) -> None:
        self.iterations, self.folder = iterations, folder
        self._profile: Any = None
        self._first = 0

    @classmethod
    def of(cls, config: Any, total: int) -> StepProfiler:
        """Of rank 0 of an online run of `total` iterations, as its settings say.

        Raises:
            UserError: the run has fewer iterations.
        """
        iterations = profiled_iterations(config.profile_steps)
        require(
            iterations.stop <= total + 1,
            f"--profile_steps {config.profile_steps}: the run has {total} iterations.",
        )
        folder = Path(config.output_dir) / "profile"
        return cls(iterations if distributed.is_main() else range(0), folder)

    @contextmanager
    def watching(self, iteration: int) -> Iterator[None]:
        """Around one iteration; the trace is written after the last one, or after an error."""
        if iteration not in self.iterations:
            yield
            return
        import torch
        from torch.profiler import ProfilerActivity

        if self._profile is None:
            kinds = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                kinds.append(ProfilerActivity.CUDA)
            self._profile, self._first = torch.profiler.profile(activities=kinds), iteration
            self._profile.start()
        done = False
        try:
            with torch.profiler.record_function(f"iteration {iteration}"):
                yield
            done = True
        finally:
            if not done or iteration == self.iterations[-1]:
                self._write(iteration)

    def _write(self, last: int) -> None:
        profile, self._profile = self._profile, None
        profile.stop()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(self.folder / f"iterations-{self._first}-{last}.json"))
        except OSError as error:
            # The other ranks continue: a trace that cannot be written must not end the run.
            distributed.log_main(f"WARNING: --profile_steps: {self.folder} is not written: {error}")
