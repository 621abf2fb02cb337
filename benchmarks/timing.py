"""CPU seconds of several contenders, which the benchmarks share."""

import statistics
import time
from collections.abc import Callable


def cpu_seconds(contenders: dict[str, Callable], repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """CPU seconds of each contender, measured in turn."""
    times = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in range(warmups):
            run()
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return times


def print_times(title: str, times: dict[str, list[float]], reference: str = "original"):
    """Minimum and median of each contender, and how often it goes into that of the reference."""
    low, middle = min(times[reference]), statistics.median(times[reference])
    for name, values in times.items():
        minimum, median = min(values), statistics.median(values)
        print(
            f"{title}, {name}: minimum {_with_unit(minimum)}, median {_with_unit(median)} of {len(values)}; "
            f"{low / minimum:.2f}x ({middle / median:.2f}x)",
            flush=True,
        )


def _with_unit(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.2f} ms"
