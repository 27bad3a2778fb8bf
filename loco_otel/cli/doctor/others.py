"""Other instrumentors of the same SDK, what they wrap, and which component makes the inference span."""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from types import FunctionType
from typing import Any

import wrapt
from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts

from loco_otel._telemetry.foreign_instrumentors import is_foreign
from loco_otel.cli.doctor.hooks import format_exception
from loco_otel.cli.doctor.report import ForeignInstrumentor, Sdk, WrappedMethod
from loco_otel.cli.doctor.source import find_module_file

OURS = "loco_otel"

_PROXY_TYPE: type[Any] = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""The base of all of wrapt's wrappers: the first name is wrapt 2's."""

_DECORATORS = frozenset({"azure", "pydantic", "typing_extensions"})
"""Beside the standard library, whose functions wrap an SDK's methods where it defines them."""

_OFFICIAL_PREFIX = "opentelemetry.instrumentation.genai"
"""They set a key in the context, so that the telemetry need not search for their frames."""

_DEPRECATED_DISTRIBUTION = "opentelemetry-instrumentation-openai-v2"
"""Fails with openai 3 for want of a module, which the launcher logs at DEBUG only; opentelemetry-bootstrap proposes it
all the same."""


def has_instrumentors(sdk: str, left_out: Collection[str]) -> bool:
    """Return whether another instrumentor of an SDK is installed and not excluded."""
    entries = entry_points(group="opentelemetry_instrumentor", name=sdk)
    return not all(_find_exclusion_reason(entry, left_out) for entry in entries)


@contextmanager
def load_instrumentors(sdk: str, left_out: Collection[str]) -> Iterator[tuple[ForeignInstrumentor, ...]]:
    """Load others' instrumentors of an SDK, as `opentelemetry-instrument` does, for the length of the body."""
    found, active = [], []
    with _suppress_logging():
        for entry in entry_points(group="opentelemetry_instrumentor", name=sdk):
            instance, fault = (
                (None, _find_exclusion_reason(entry, left_out))
                if _find_exclusion_reason(entry, left_out)
                else _activate_instrumentor(entry)
            )
            if instance is not None:
                active.append(instance)
            found.append(_describe_instrumentor(entry, fault))
    try:
        yield tuple(found)
    finally:
        for instance in reversed(active):
            with _suppress_logging(), suppress(Exception):  # theirs to get right, and this process ends
                instance.uninstrument()


def _find_exclusion_reason(entry: EntryPoint, left_out: Collection[str]) -> str:
    if not {"*", entry.name}.isdisjoint(left_out):
        return "disabled by OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    conflict = entry.dist and get_dist_dependency_conflicts(entry.dist)
    return f"left out: {conflict}" if conflict else ""


def _activate_instrumentor(entry: EntryPoint) -> tuple[Any, str]:
    """Return an instrumentor that was not active before and is now, and why it does not work."""
    try:
        instance = entry.load()()
        if not getattr(instance, "is_instrumented_by_opentelemetry", False):
            instance.instrument(skip_dep_check=True)
            return instance, ""
    except ImportError as error:
        return None, f"silently left out: {format_exception(error)}"
    except Exception as error:
        return None, f"fails, and stops the instrumentors after it: {format_exception(error)}"
    return None, ""


def _describe_instrumentor(entry: EntryPoint, fault: str) -> ForeignInstrumentor:
    name, number = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "unknown")
    if fault and name == _DEPRECATED_DISTRIBUTION and not fault.startswith("disabled"):
        fault += "; it is no longer kept up, opentelemetry-instrumentation-genai-openai takes its place"
    return ForeignInstrumentor(entry.name, entry.module, name, number, fault)


def find_wrapped_methods(sdk: str) -> tuple[WrappedMethod, ...]:
    """Name the methods of an SDK that others have wrapped, wherever it has been imported."""
    found = {}
    for kind in _find_sdk_classes(sdk):
        for method, function in list(vars(kind).items()):
            by = tuple(dict.fromkeys(_iterate_wrapper_modules(function, sdk)))
            if any(not _is_ours(layer) for layer in by):
                name = f"{kind.__module__}.{kind.__qualname__}.{method}"
                found[name] = WrappedMethod(name, by)
    return tuple(found[name] for name in sorted(found))


def _find_sdk_classes(sdk: str) -> set[type]:
    modules = [module for name, module in list(sys.modules.items()) if f"{name}.".startswith(f"{sdk}.")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    return {kind for kind in kinds if f"{kind.__module__}.".startswith(f"{sdk}.")}


def _iterate_wrapper_modules(function: Any, sdk: str) -> Iterator[str]:
    """Name the modules of the wrappers around a function, the outermost first, without those that were born with it."""
    while function is not None:
        if isinstance(function, _PROXY_TYPE):  # whose `__class__` is that of a function too
            inner = function.__wrapped__
            wrapper = getattr(function, "_self_wrapper", None)
            module = getattr(wrapper, "__module__", None) or type(function).__module__
        elif isinstance(function, FunctionType):
            inner = vars(function).get("__wrapped__")
            # `functools.wraps` has given it the name of the module of what it wraps.
            module = function.__globals__.get("__name__", "")
        else:
            return
        top = module.partition(".")[0]
        if inner is not None and not (
            f"{module}.".startswith(f"{sdk}.") or top in _DECORATORS or top in sys.stdlib_module_names
        ):
            yield module
        function = inner


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == OURS


def find_span_sources(sdk: Sdk, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what makes the inference span of an SDK's calls: others, the SDK itself, otherwise loco-otel."""
    layers = {module for method in sdk.wrapped for module in method.by}
    working = [other.module for other in sdk.instrumentors if not other.fault]
    modules = [module for module in working if any(f"{layer}.".startswith(f"{module}.") for layer in layers)]
    # Somebody may have been instrumented by hand, before us.
    strangers = {layer for layer in layers if is_foreign(layer) or layer.startswith(f"{_OFFICIAL_PREFIX}.")}
    modules += sorted(
        layer for layer in strangers if not any(f"{layer}.".startswith(f"{module}.") for module in modules)
    )
    if _has_own_tracing(sdk.sdk, environ):
        modules.append(sdk.sdk)
    return tuple(modules) or (OURS,)


def _has_own_tracing(sdk: str, environ: Mapping[str, str]) -> bool:
    """Return whether an SDK makes spans of its own, as anthropic does since version 2 unless that is disabled."""
    variable = f"{sdk.upper()}_OPEN_TELEMETRY"
    return environ.get(variable, "").lower() != "false" and find_module_file(f"{sdk}._tracing") is not None


@contextmanager
def _suppress_logging() -> Iterator[None]:
    """Suppress log lines of others, which contain less than the report."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
