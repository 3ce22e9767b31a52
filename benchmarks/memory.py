"""Whether training's memory stays flat: `python -m benchmarks.memory`.

Runs `train.py` with a configuration for some minutes, in a folder of its own, and reads the resident memory of all its
processes together every ten seconds (Linux). Prints one JSON object: megabytes after one minute, at the end, the
highest in between, and the end's ratio to the first.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE_BYTES = 4096
ROOT = Path(__file__).parent.parent


def resident_bytes(process: int) -> int:
    """Of a process and all its descendants; those that end meanwhile count as nothing."""
    try:
        own = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_BYTES
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return own + sum(resident_bytes(int(child)) for child in children)


def watch(config: str, minutes: float, folder: str) -> list[tuple[float, int]]:
    """(seconds, resident bytes) of a run every ten seconds."""
    settings = ["--config", str(ROOT / config), "--total_timesteps", str(10**12)]
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *settings],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    begin, found = time.monotonic(), []
    try:
        while time.monotonic() - begin < 60 * minutes:
            time.sleep(10)
            found.append((time.monotonic() - begin, resident_bytes(run.pid)))
            if run.poll() is not None:
                raise SystemExit(f"benchmarks.memory: training ended with exit code {run.returncode}")
    finally:
        run.send_signal(signal.SIGTERM)
        run.wait()
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--config", default="configs/mini_pacman_viewport_rmc.yaml")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, more than one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = watch(options.config, options.minutes, folder)
    megabytes = [count / 2**20 for seconds, count in found if seconds >= 60]
    figures = {"after_1_minute": megabytes[0], "at_the_end": megabytes[-1], "highest": max(megabytes)}
    rounded = {f"{name}_mb": round(value) for name, value in figures.items()}
    ratio = round(megabytes[-1] / megabytes[0], 3)
    print(json.dumps({"config": options.config, "minutes": options.minutes, **rounded, "ratio": ratio}))


if __name__ == "__main__":
    main(sys.argv[1:])
