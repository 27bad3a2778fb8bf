"""The cells of the tables of `loco-otel top`: bars, seconds, money."""

from rich.text import Text

from loco_otel.cli.top.state import AgentState, BudgetState

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 8
_MAX_SQUARES = 8
_MAX_CAUSES = 3
_MIN_SHARE = 0.005
"""Of a cause that is named: less is shown as 0 %."""
_WARNING_SHARE = 0.8


def draw_bar(share: float, width: int = _BAR_WIDTH) -> str:
    """Return a bar of a share, in eighths of a character.

    Example:
        >>> draw_bar(0.5, 4)
        '██  '

    """
    filled = round(max(0.0, min(1.0, share)) * width * 8)
    bar = "█" * (filled // 8) + (_EIGHTHS[filled % 8] if filled % 8 else "")
    return bar.ljust(width)


def format_count(count: int, symbol: str, style: str) -> Text:
    """Return a number with a symbol for each, as many as there is room for."""
    if not count:
        return Text("·", style="dim")
    more = "…" if count > _MAX_SQUARES else ""
    return Text.assemble(f"{count:>3} ", (symbol * min(count, _MAX_SQUARES) + more, style))


def format_seconds(seconds: float) -> str:
    """Return a duration with a unit that keeps it short.

    Example:
        >>> format_seconds(0.25), format_seconds(75), format_seconds(7300)
        ('0.25 s', '1m15s', '2h01m')

    """
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.2f} s"
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours}h{left:02}m" if hours else f"{minutes}m{rest:02}s"


def format_usd(usd: float) -> str:
    """Return an amount of money: exact to the cent, small ones to a hundredth of a cent."""
    return f"${usd:,.4f}" if 0 < usd < 1 else f"${usd:,.2f}"


def format_budget(budget: BudgetState | None) -> Text:
    """Return a budget's share in use, as a bar."""
    if budget is None:
        return Text("-", style="dim")
    used = budget.used
    style = "red" if used >= 1 else "yellow" if used >= _WARNING_SHARE else "green"
    return Text.assemble((draw_bar(used), f"{style} on grey23"), f" {used:>4.0%}")


def format_amount(amount: float, unit: str) -> str:
    """Return an amount of a budget."""
    return format_usd(amount) if unit == "usd" else f"{amount:,.0f}"


def format_causes(agent: AgentState) -> Text:
    """Return what an agent's waiting calls wait for."""
    if not agent.waiting:
        return Text("-", style="dim")
    if not agent.causes:
        return Text("…", style="dim")
    named = [f"{cause} {share:.0%}" for cause, share in agent.causes[:_MAX_CAUSES] if share >= _MIN_SHARE]
    rest = sum(share for _, share in agent.causes[_MAX_CAUSES:])
    return Text(", ".join([*named, f"other {rest:.0%}"] if rest >= _MIN_SHARE else named))
