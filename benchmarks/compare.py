"""A grid of training runs, their table and their curves: `python -m benchmarks.compare`.

Trains what a grid of configs/experiments/ asks for, each run with one core of the processor to itself, and writes the
table anew after every run. Every run is an ordinary one of `train.py`, in a folder of its own. What is done is not
done again, and what was stopped goes on from its checkpoint: after a Ctrl-C or a crash, the same command continues.
The same command on other cores, or in another terminal, takes a share of the work. A grid that is given more steps has
its runs go on.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import train
from agents.config import AgentRun
from rmc_rl.stop import StopRequest

from .compare_tables import write_results
from .grid import Grid, Run

GRID = Path("configs", "experiments", "mini_pacman.yaml")
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class Job:
    """A run that a process is training on a core."""

    run: Run
    config: AgentRun
    process: subprocess.Popen[bytes]

    @classmethod
    def begin(cls, run: Run, config: AgentRun, core: int) -> "Job | None":
        """Train a run on a core; None if some other command is training it, or has done so."""
        with ExitStack() as files:
            lock = files.enter_context(run.file("lock").open("wb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if run.is_done(config):
                return None
            arguments = run.arguments(config)
            if not run.folder.checkpoints():
                shutil.rmtree(run.folder.path, ignore_errors=True)  # stopped before its first checkpoint
            log = files.enter_context(run.file("log").open("ab"))
            process = subprocess.Popen(
                [sys.executable, train.__file__, *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                pass_fds=[lock.fileno()],  # the lock lasts as long as the process, even if this one is killed
                start_new_session=True,  # a Ctrl-C is passed on below, once
            )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, [core])
        return cls(run, config, process)

    @property
    def last_line(self) -> str:
        lines = self.run.file("log").read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else "nothing was printed"


def make(runs: Sequence[tuple[Run, AgentRun]], cores: Sequence[int], report: Callable[[], None]) -> int:
    """Train what is missing, one run a core. Returns the exit code: 0, 1 if a run failed, 130 if stopped.

    Args:
        runs: in the order in which they are begun.
        cores: of the processor.
        report: called when a run is done.
    """
    waiting = deque((run, config) for run, config in runs if not run.is_done(config))
    busy: dict[int, Job] = {}
    stop, is_passed_on, failed = StopRequest(), False, False
    with stop.listening(), killing(busy):
        while busy or (waiting and not stop.requested):
            for core in cores:
                if core not in busy and waiting and not stop.requested:
                    run, config = waiting.popleft()
                    if job := Job.begin(run, config, core):
                        busy[core] = job
                        print(f"{run.name}: on core {core}, see {run.file('log')}", flush=True)
            if stop.requested and not is_passed_on:
                for job in busy.values():
                    job.process.send_signal(signal.SIGINT)
                is_passed_on = True
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for core, job in list(busy.items()):
                if job.process.poll() is None:
                    continue
                del busy[core]
                if job.run.is_done(job.config):
                    print(f"{job.run.name}: return {job.run.evaluation()['mean_return']:.1f}", flush=True)
                    report()
                elif not stop.requested:
                    print(f"{job.run.name}: {job.last_line}", file=sys.stderr, flush=True)
                    failed = True
    if stop.requested:
        print("stopped; the same command goes on")
        return 130
    return int(failed)


@contextmanager
def killing(busy: Mapping[int, Job]) -> Iterator[None]:
    """End what still runs when the block is left: by a second Ctrl-C, or an error."""
    try:
        yield
    finally:
        for job in busy.values():
            job.process.kill()


def main(arguments: list[str]) -> int:
    """Make what is missing of a grid. Returns the exit code: as `make`, or 2 for bad input."""
    parser = argparse.ArgumentParser("python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--grid", type=Path, default=GRID, help=f"what is compared; default: {GRID}")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="train these alone")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="train these alone")
    parser.add_argument("--workers", type=int, metavar="N", help="cores to be used; default: all that there are")
    parser.add_argument("--table", action="store_true", help="train nothing: table and curves of what is there")
    parser.add_argument("--output", type=Path, help="folder of table and curves; default: runs/GRID")
    options = parser.parse_args(arguments)
    try:
        grid = Grid.read(options.grid)
        runs = grid.runs(options.grid.stem)
        output = options.output or Path("runs", options.grid.stem)
        if not options.table:
            cores = choose_cores(options.workers)
            wanted = choose_runs(grid, runs, options.rows, options.seeds)
            configs = [(run, run.config()) for run in wanted]
            code = make(configs, cores, lambda: report(grid, runs, output))
            if code != 0:
                return code
        write_results(grid, runs, output)
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    except KeyboardInterrupt:  # a second one
        return 130
    print(f"wrote {output / 'table.md'}")
    return 0


def report(grid: Grid, runs: Sequence[Run], output: Path) -> None:
    """Write what is known so far; training goes on if that fails."""
    try:
        write_results(grid, runs, output)
    except (ValueError, OSError) as error:
        complain(error)


def complain(error: Exception) -> None:
    print(f"compare: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def choose_cores(workers: int | None) -> list[int]:
    """Those that this process may use, or some of them.

    Raises:
        ValueError: there are not so many.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    if workers is not None and not 1 <= workers <= len(cores):
        raise ValueError(f"--workers must be from 1 to {len(cores)}, the cores that there are, got {workers}")
    return cores[:workers]


def choose_runs(grid: Grid, runs: list[Run], rows: list[str] | None, seeds: list[int] | None) -> list[Run]:
    """Those of some rows and seeds; None for all.

    Raises:
        ValueError: the grid has no such row, or no run with such a seed.
    """
    if unknown := set(rows or ()) - grid.rows.keys():
        raise ValueError(f"--rows must be among {', '.join(grid.rows)}, got {', '.join(sorted(unknown))}")
    in_rows = [run for run in runs if rows is None or run.row in rows]
    legal = sorted({run.seed for run in in_rows})
    if unknown_seeds := set(seeds or ()) - set(legal):
        raise ValueError(f"--seeds must be among {legal}, got {sorted(unknown_seeds)}")
    return [run for run in in_rows if seeds is None or run.seed in seeds]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
