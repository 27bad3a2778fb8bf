"""The Prometheus page of a running process, which `loco-otel ps`, `top` and `report` read."""

import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loco_otel._telemetry.catalogue import MetricDefinition
from loco_otel.errors import LocoError

TIMEOUT = 5.0
"""Seconds that a page may take, from the connection to its last byte."""
_MAX_PAGE_BYTES = 50_000_000
_CHUNK_BYTES = 65_536


class PageError(LocoError):
    """A process can't be read. The message names the cause."""


class MetricsPage(NamedTuple):
    """The samples of loco-otel on one page, by name."""

    url: str
    series: Mapping[str, Sequence[Sample]]

    def list_samples(self, metric: MetricDefinition, part: str = "") -> Sequence[Sample]:
        """Return the samples of a metric; `part` is `bucket`, `sum` or `count` of a histogram."""
        return self.series.get(f"{metric.prometheus_name}_{part}" if part else metric.prometheus_name, ())

    def sum_by(self, metric: MetricDefinition, *keys: str, part: str = "") -> dict[tuple[str, ...], float]:
        """Return the sums of a metric's samples, by the values of these attributes; one that is absent is empty."""
        labels, sums = [to_label(key) for key in keys], defaultdict[tuple[str, ...], float](float)
        for sample in self.list_samples(metric, part):
            sums[tuple(sample.labels.get(label, "") for label in labels)] += sample.value
        return dict(sums)


def to_label(key: str) -> str:
    """Return the label that the Prometheus exporter makes of an attribute's key."""
    return key.replace(".", "_")


def get_default_url(environ: Mapping[str, str]) -> str:
    """Return the address of OpenTelemetry's Prometheus exporter, from its environment variables."""
    host = environ.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost"
    port = environ.get("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def fetch_page(url: str, timeout: float = TIMEOUT) -> MetricsPage:
    """Return the page of a running process.

    Raises:
        PageError: there is no complete answer in time, or it is not a Prometheus page with loco-otel's metrics.

    """
    if not url.startswith(("http://", "https://")):
        raise PageError(f"{url} is no address: it begins with http:// or https://")
    try:
        text = _download(url, timeout)
    except (OSError, ValueError, HTTPException) as error:
        raise PageError(f"{url} does not answer: {_describe_cause(error, timeout)}") from error
    return parse_page(text, url)


def _download(url: str, timeout: float) -> str:
    # A proxy cannot reach this machine's own addresses, even if `http_proxy` has no exception for them.
    handlers = [urllib.request.ProxyHandler({})] if _is_local_host(urlsplit(url).hostname) else []
    # The timeout of a socket bounds each read: a server that sends a byte now and then needs a deadline.
    deadline = time.monotonic() + timeout
    with urllib.request.build_opener(*handlers).open(url, timeout=timeout) as answer:
        content = bytearray()
        while chunk := answer.read1(_CHUNK_BYTES):
            content += chunk
            if time.monotonic() > deadline:
                raise TimeoutError
            if len(content) > _MAX_PAGE_BYTES:
                raise ValueError(f"the page has more than {_MAX_PAGE_BYTES} bytes")
    return content.decode()


def _describe_cause(error: Exception, timeout: float) -> str:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return f"the page was not complete after {timeout:g} s"
    return " ".join(str(reason).split()) or type(error).__name__


def _is_local_host(host: str | None) -> bool:
    try:
        address = ip_address(host or "")
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def parse_page(text: str, url: str) -> MetricsPage:
    """Return the samples of a Prometheus page.

    Raises:
        PageError: the page is not in Prometheus' format, or has no metrics of loco-otel.

    """
    try:
        samples = [
            sample
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("loco_")
        ]
    except ValueError as error:
        raise PageError(f"{url} is no page of Prometheus: {error}") from error
    if not samples:
        raise PageError(f"{url} has no metrics of loco-otel: is it installed there, and are metrics on?")
    series = defaultdict[str, list[Sample]](list)
    for sample in samples:
        series[sample.name].append(sample)
    return MetricsPage(url, dict(series))
