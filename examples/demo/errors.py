"""What can go wrong with the demo."""


class DemoError(Exception):
    """The demo did not come out as it should; the message says what was seen and what was expected."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong: somebody asked for it
    """Somebody wants the demo to end: Ctrl-C, or a signal.

    Attributes:
        signal: its number.

    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
