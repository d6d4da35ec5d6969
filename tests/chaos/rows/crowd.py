"""40 hospitals with 20 MB each at once, then 500 within a minute, beside a real server."""

from __future__ import annotations

from tests.chaos.load import Crowd, Measured, allow_files, measure
from tests.chaos.rows import Options, Result

WHAT = "load: 40 x 20 MB at once, and 500 hospitals in one round, with the load on the same cores"

RSS_MIB = 400
CONTROL_SECONDS = 1.0
SLOW_SECONDS = 30.0
_FORMS = {"40 x 20 MB": (40, 20.0, 0.0), "500 hospitals": (500, 0.1, 60.0)}
"""How many, megabytes of each, and seconds within which they begin."""


def run(options: Options) -> Result:
    """Both forms; a smaller share has fewer hospitals."""
    allow_files(4096)
    lines = [_HEAD]
    failures: list[str] = []
    for name, (n, megabytes, within) in _FORMS.items():
        folder = options.folder / name.replace(" ", "-")
        folder.mkdir()
        crowd = Crowd(folder, options.share(n), megabytes)
        options.say(f"{name}: sealed")
        found = measure(crowd, within=within, slow=True)
        lines.append(_line(name, found))
        failures += [f"{name}: {text}" for text in broken(found, len(crowd.jobs))]
    return Result({}, lines, failures)


_HEAD = (
    "form", "received", "counted", "MB", "s", "MB/s", "peak RSS MiB", "server CPU s",
    "control calls", "p50 s", "p99 s", "worst s", "asked again", "slow closed s",
)  # fmt: skip


def _line(name: str, found: Measured) -> tuple[str, ...]:
    slow = ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in sorted(found.slow.items()))
    return (
        name, str(found.receipts), str(found.counted), f"{found.megabytes:.0f}",
        f"{found.seconds:.0f}", f"{found.megabytes / found.seconds:.1f}",
        f"{found.server_rss_mib:.0f}", f"{found.server_cpu_seconds:.0f}", str(len(found.control)),
        f"{found.percentile(0.5):.3f}", f"{found.percentile(0.99):.3f}",
        f"{max(found.control, default=0):.3f}", str(found.retries), slow,
    )  # fmt: skip


def broken(found: Measured, n: int, control_seconds: float = CONTROL_SECONDS) -> list[str]:
    """Which promises a measurement shows broken."""
    said = {
        f"{n - found.receipts} hospitals have no receipt": found.receipts != n,
        f"the record counts {found.counted} of {n}": found.counted != n,
        f"{found.server_rss_mib:.0f} MiB were held": found.server_rss_mib > RSS_MIB,
        f"control calls took {found.percentile(0.99):.2f} s": found.percentile(0.99)
        > control_seconds,
        f"{found.refused} control calls were refused": found.refused > 0,
    }
    said |= {
        f"a client that {kind} was borne for {seconds:.0f} s": seconds > SLOW_SECONDS
        for kind, seconds in found.slow.items()
    }
    return [text for text, wrong in said.items() if wrong]
