"""`loco-otel top` on pages that are absent, vanish, hang, or are another program's: a message, and recovery."""

import pytest
from faulty_page import FaultyPage
from top_screen import TopScreen, watch_top


def _has_analyst(screen: TopScreen) -> bool:
    return [(row["Agent"], row["Waiting"].split()[0]) for row in screen.agents()] == [("analyst", "2")]


def test_absent_page_is_named_with_advice() -> None:
    page = FaultyPage()

    async def script(screen: TopScreen) -> None:
        await screen.until(lambda: "Connection refused" in screen.text("notice"))
        text = screen.text("notice")
        assert text.startswith("No program with loco-otel answers.")
        assert f"{page.url} does not answer: [Errno 111] Connection refused" in text
        assert "OTEL_METRICS_EXPORTER=prometheus opentelemetry-instrument python app.py" in text
        assert screen.text("endpoints") == ""
        page.start()
        await screen.until(lambda: _has_analyst(screen))
        assert screen.text("notice") == ""
        assert screen.text("endpoints").strip() == f"● {page.url}"

    try:
        watch_top([page.url], script)
    finally:
        page.stop()


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("other", "has no metrics of loco-otel: is it installed there, and are metrics on?"),
        ("garbage", "is no page of Prometheus"),
        ("error", "does not answer: Internal Server Error"),
        ("hang", "does not answer: the page was not complete after 0.5 s"),
        ("drip", "does not answer: the page was not complete after 0.5 s"),
    ],
)
def test_fault_is_shown_until_the_page_recovers(mode: str, message: str) -> None:
    async def script(screen: TopScreen) -> None:
        await screen.until(lambda: _has_analyst(screen))
        page.switch(mode)
        await screen.until(lambda: message in screen.text("endpoints"))
        assert "; last page " in screen.text("endpoints")
        assert "0 of 1 processes" in screen.title
        # What it holds now is not known; what it has spent is.
        await screen.until(lambda: screen.agents()[0]["Waiting"] == "·")
        assert screen.agents()[0]["Spend"] == "$0.2500"
        page.switch("page")
        await screen.until(lambda: _has_analyst(screen))
        assert screen.text("endpoints").strip() == f"● {page.url}"

    with FaultyPage() as page:
        watch_top([page.url], script, timeout=0.5)


def test_page_that_hangs_is_reported_before_its_timeout() -> None:
    async def script(screen: TopScreen) -> None:
        await screen.until(lambda: f"{page.url} has not answered yet" in screen.text("notice"))
        page.switch("page")
        await screen.until(lambda: _has_analyst(screen))
        # Until the timeout, the last page is the present one.
        page.switch("hang")
        await screen.until(lambda: "has not answered for " in screen.text("endpoints"))
        assert _has_analyst(screen)
        page.switch("page")
        await screen.until(lambda: screen.text("endpoints").strip() == f"● {page.url}")

    with FaultyPage() as page:
        page.switch("hang")
        watch_top([page.url], script)


def test_page_that_hangs_delays_no_other() -> None:
    async def script(screen: TopScreen) -> None:
        await screen.until(lambda: _has_analyst(screen))
        lines = screen.text("endpoints").splitlines()
        assert lines[0].startswith(f"● {good.url}")
        assert lines[1].startswith("○ ")
        assert "1 of 2 processes" in screen.title
        good.page = good.page.replace('loco_requests_waiting{loco_agent_id="analyst",', "ignored{")
        await screen.until(lambda: not _has_analyst(screen))

    with FaultyPage() as good, FaultyPage() as bad:
        bad.switch("hang")
        watch_top([good.url, bad.url], script)


def test_vanished_page_recovers_with_fewer_counts() -> None:
    async def script(screen: TopScreen) -> None:
        await screen.until(lambda: _has_analyst(screen))
        page.stop()
        await screen.until(lambda: "Connection refused; last page" in screen.text("endpoints"))
        page.page = page.page.replace('_total{loco_agent_id="analyst",gen_ai_provider_name="openai"} 0.25', "_x 1")
        page.start()
        await screen.until(lambda: _has_analyst(screen) and screen.agents()[0]["Spend"] == "$0.00")
        # Of the counters since the restart, as those before it are higher.
        assert screen.agents()[0]["Held up by"] in {"…", "crawler 75%, itself 25%"}

    with FaultyPage() as page:
        watch_top([page.url], script)


def test_address_without_scheme_is_explained() -> None:
    async def script(screen: TopScreen) -> None:
        await screen.until(lambda: "begins with http:// or https://" in screen.text("notice"))

    watch_top(["localhost:9464"], script)
