"""A forecast and an account as people read them."""

from collections.abc import Iterator

from tasks.planner.forecast import Forecast, StageForecast


def line(forecast: Forecast) -> str:
    """Said before a run, such as 'about 9 minutes, 2.4 GB; free 51 GB'."""
    seconds = forecast.seconds
    took = "time unknown (saemill plan measures it)" if seconds is None else f"about {long(seconds)}"
    free = "" if forecast.free_bytes is None else f"; free {size(forecast.free_bytes)}"
    least = "" if forecast.tokens else "more than "  # of a dataset on the hub nobody knows how long it is
    return f"{took}, {least}{size(forecast.bytes)}{free}"


def accounted(planned_seconds: float | None, planned_bytes: int, seconds: float, taken: int) -> str:
    """Said after a run, such as 'planned 9.1 min and 2.40 GB, took 9.8 min (+8%) and 2.41 GB (+0%)'."""
    planned = "" if planned_seconds is None else f"{short(planned_seconds)} and "
    off = "" if planned_seconds is None else f" ({_off(seconds, planned_seconds)})"
    sizes = f"{size(taken, 3)} ({_off(taken, planned_bytes)})"
    return f"planned {planned}{size(planned_bytes, 3)}, took {short(seconds)}{off} and {sizes}"


def table(forecast: Forecast) -> Iterator[str]:
    """What ``saemill plan`` prints, line by line: a row per stage, then the sums."""
    hours = "CPU hours" if forecast.cards is None else "GPU hours"
    rows: list[tuple[str, ...]] = [
        ("stage", "tokens", "rows", "stored", "PUT", "GET", "LIST", "memory", "processes", hours, "time")
    ]
    rows += [_row(name, stage) for name, stage in forecast.stages.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
    yield ""
    yield f"{forecast.tokens:,} tokens ({forecast.how}); {line(forecast)}"
    if forecast.left:
        yield _priced(forecast)
    if forecast.cards is not None:
        yield "left out: until processes have started and models are loaded, some 10 to 60 s a stage (guess)"
    sources: dict[str, list[str]] = {}
    for name, stage in forecast.stages.items():
        if stage.share:
            told = "nothing that is known yet" if stage.speed is None else stage.speed.source
            sources.setdefault(told, []).append(name)
    yield from (f"time of {', '.join(names)}: from {source}" for source, names in sources.items())


def long(seconds: float) -> str:
    """Such as '40 seconds', '9 minutes', '3.5 hours'."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} hours"


def short(seconds: float) -> str:
    """Such as '40 s', '9.1 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 90 * 60 else f"{seconds / 3600:,.1f} h"


def size(n_bytes: int, digits: int = 2) -> str:
    """In powers of 1,000, such as '2.4 GB'."""
    value, unit = float(n_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if round(value) < 1000:
            break
        value, unit = value / 1000, larger
    if unit == "bytes":
        return f"{n_bytes} bytes"
    return f"{value:.{max(0, digits - len(str(int(value))))}f} {unit}"


def _off(found: float, planned: float) -> str:
    return "planned none" if not planned else f"{(found - planned) / planned:+.0%}"


def _row(name: str, stage: StageForecast) -> tuple[str, ...]:
    need = stage.need
    if not stage.share:
        return (name, "", "", "", "", "", "", "", "", "", "finished")
    counts = (f"{stage.requests[verb]:,}" for verb in ("PUT", "GET", "LIST"))
    seconds, hours = stage.seconds, stage.process_hours
    took = ("", "unknown") if seconds is None or hours is None else (f"{hours:,.3g}", short(seconds))
    stored, memory = size(stage.bytes, 3), size(need.memory_bytes)
    return (name, f"{need.tokens:,}", f"{need.rows:,}", stored, *counts, memory, f"{need.processes:,}", *took)


def _priced(forecast: Forecast) -> str:
    price, prices = forecast.price, forecast.prices
    if prices.per_hour is None:
        return "price: not known; say what an hour costs with --price-per-hour"
    if price is None:
        return "price: not known, as the time is not"
    of = "an hour of the machine" if forecast.cards is None else f"an hour of each of {forecast.cards} cards"
    stored = "" if prices.per_gb_month is None else f", storage for a month at {prices.per_gb_month:g} a GB"
    return f"price: {price:,.4g} ({of} at {prices.per_hour:g}{stored})"
