"""Spans of OpenTelemetry's SDK that take a third of the instructions of those that its tracer starts.

A light span extends the SDK's class, and passes its sampler, id generator and processors. It omits what most spans do
not need: the check of attributes that are plain values, and the containers of attributes, events and links until
something needs them or the span ends. Everything else, such as what the program does with the current span, is the
SDK's code.

This module depends on private names of the SDK. It is used only if `light_span_check.py` finds no difference between a
span started here and one of the tracer, see docs/decisions/0013-light-spans.md.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import time_ns
from types import MappingProxyType
from typing import Any

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, _Span
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, ParentBasedTraceIdRatio, Sampler, StaticSampler
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.util.types import AttributeValue

from loco_otel._telemetry.current_context import get_span

_PLAIN_TYPES = frozenset({str, int, float, bool})
"""Types of values that the SDK keeps as they are."""
_PLAIN_OR_TUPLE = _PLAIN_TYPES | {tuple}
_TEXT, _FLOATS = frozenset({str}), frozenset({float})
_RANDOM = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
_FLAGS = {flags: TraceFlags(flags) for flags in {0, TraceFlags.SAMPLED, _RANDOM, TraceFlags.SAMPLED | _RANDOM}}
_SAMPLED = TraceFlags.SAMPLED
_RECORD_AND_SAMPLE: Any = Decision.RECORD_AND_SAMPLE
_PARENT_BASED = frozenset({ParentBased, ParentBasedTraceIdRatio})
_UNSET = Status(StatusCode.UNSET)


class _OnDemand:
    """A container of the SDK that a span, open or ended, makes at its first use.

    A descriptor without `__set__`: once the span has the container, attribute access does not come here. Of two threads
    that come here at once both get the same container.

    Args:
        make: makes the container of a span.

    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, span: Any, owner: type | None = None) -> Any:
        return self if span is None else span.__dict__.setdefault(self._name, self._make(span))


def _make_attributes(span: Any) -> BoundedAttributes:
    bounded = BoundedAttributes(span._limits.max_span_attributes, None, False, None)
    bounded._dict = span._plain
    bounded._immutable = span._end_time is not None
    return bounded


def _make_events(span: Any) -> BoundedList[Any]:
    return BoundedList(span._limits.max_events)


def _make_links(span: Any) -> BoundedList[Any]:
    return BoundedList(span._limits.max_links)


class LightSpan(_Span):
    """A span whose attributes are a plain dict until code of the SDK or of the program requires more of them."""

    _plain: dict[str, Any]
    """The attributes, of plain values; the SDK's container shares it."""
    _attributes: Any = _OnDemand(_make_attributes)
    _events: Any = _OnDemand(_make_events)
    _links: Any = _OnDemand(_make_links)
    _trace_config = None
    _record_exception = _set_status_on_exception = True

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Do what the SDK does: plain values are kept as they are."""
        if _are_plain(attributes):
            with self._lock:
                if self._end_time is None and self._has_room(len(attributes)):
                    plain = self._plain
                    if not plain.keys().isdisjoint(attributes):
                        # A key that is set again becomes the latest.
                        for key in attributes:
                            plain.pop(key, None)
                    plain.update(attributes)
                    return
        super().set_attributes(attributes)

    def set_attribute(self, key: str, value: Any) -> None:
        """Do what the SDK does."""
        if type(value) in _PLAIN_TYPES and type(key) is str and key:
            with self._lock:
                if self._end_time is None and self._has_room(1):
                    self._plain.pop(key, None)  # a key that is set again becomes the latest
                    self._plain[key] = value
                    return
        super().set_attribute(key, value)

    def _has_room(self, count: int) -> bool:
        most = self._limits.max_span_attributes
        return "_attributes" not in self.__dict__ and (most is None or len(self._plain) + count <= most)

    def end(self, end_time: int | None = None) -> None:
        """Do what the SDK does."""
        with self._lock:
            is_first = self._end_time is None
            if is_first:
                self._end_time = time_ns() if end_time is None else end_time
                if "_attributes" in self.__dict__:
                    self._attributes._immutable = True
        if not is_first:
            super().end(end_time)  # which only warns
            return
        if self._record_end_metrics is not None:
            self._record_end_metrics()
        self._span_processor._on_ending(self)
        self._span_processor.on_end(self._readable_span())

    def _readable_span(self) -> ReadableSpan:
        # A copy without the fields of an open span takes half of what selecting the others does.
        ended = self.__dict__.copy()
        del ended["_sampler"], ended["_span_processor"], ended["_lock"], ended["_record_end_metrics"]
        span: _EndedSpan = object.__new__(_EndedSpan)
        span.__dict__ = ended
        return span


class _EndedSpan(ReadableSpan):
    """What processors receive. Its containers are the SDK's: those that change what is exported use private names.

    Exporters read the properties. These need no containers, and return what the SDK's own return for those.
    """

    _plain: dict[str, Any]
    _attributes: Any = _OnDemand(_make_attributes)
    _events: Any = _OnDemand(_make_events)
    _links: Any = _OnDemand(_make_links)

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        return MappingProxyType(self.__dict__.get("_attributes", self._plain) or {})

    @property
    def events(self) -> Sequence[Event]:
        return tuple(self._events) if "_events" in self.__dict__ else ()

    @property
    def links(self) -> Sequence[Link]:
        return tuple(self._links) if "_links" in self.__dict__ else ()

    @property
    def dropped_attributes(self) -> int:
        return super().dropped_attributes if "_attributes" in self.__dict__ else 0

    @property
    def dropped_events(self) -> int:
        return super().dropped_events if "_events" in self.__dict__ else 0

    @property
    def dropped_links(self) -> int:
        return super().dropped_links if "_links" in self.__dict__ else 0


class _HashedResource(Resource):
    """A resource that keeps its hash: the SDK's is that of its JSON, computed for each span that an exporter groups.

    It equals the resource that it is made of, in either order, at the cost of a comparison of identity.
    """

    def __init__(self, resource: Resource) -> None:
        self.__dict__.update(resource.__dict__)
        self._original = resource
        self._hash: int | None = None

    def __eq__(self, other: object) -> bool:
        return other is self._original or super().__eq__(other)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = super().__hash__()
        return self._hash


_FIELDS_OF_ONE = (
    "_name", "_context", "_kind", "_parent", "_start_time", "_record_end_metrics", "_lock", "_plain",
)  # fmt: skip
"""The fields that each span has a value of its own for."""


class LightTracer:
    """Starts light spans.

    Args:
        tracer: a tracer that `supports_tracer`.

    """

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._fields: dict[str, Any] = {
            **dict.fromkeys(_FIELDS_OF_ONE),
            "_instrumentation_info": tracer.instrumentation_info,
            "_instrumentation_scope": tracer._instrumentation_scope,
            "_end_time": None,
            "_status": _UNSET,
            "_sampler": tracer.sampler,
            "_span_processor": tracer.span_processor,
            "_limits": tracer._span_limits,
        }
        most = tracer._span_limits.max_span_attributes
        self._max_attributes = inf if most is None else most
        self._sampler: Any = None
        self._samples_children = False
        self._resource: Any = None
        self._is_trace_id_random = getattr(tracer.id_generator, "is_trace_id_random", bool)

    def start_span(  # noqa: PLR0917 - as the API has it
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
    ) -> Span:
        """Start a span, as the method of the SDK does."""
        tracer = self._tracer
        above = trace.get_current_span() if context is None else get_span(context)
        parent: SpanContext | None = above.get_span_context()
        if parent is None or not tracer._is_enabled():
            span: Span = tracer.start_span(name, context, kind, attributes, links, start_time)
            return span
        if parent.is_valid:
            trace_id, random = parent.trace_id, parent.trace_flags & _RANDOM
        else:
            parent, trace_id = None, tracer.id_generator.generate_trace_id()
            random = _RANDOM if self._is_trace_id_random() else 0
        sampler = tracer.sampler
        if sampler is not self._sampler:
            self._sampler, self._samples_children = sampler, _samples_children(sampler)
        if self._samples_children and parent is not None and parent.trace_flags & _SAMPLED and not parent.is_remote:
            decision, state = _RECORD_AND_SAMPLE, parent.trace_state
            flags = _FLAGS[random | _SAMPLED]
        else:
            sampled = sampler.should_sample(context, trace_id, name, kind, attributes, links or ())
            decision, attributes, state = sampled.decision, sampled.attributes, sampled.trace_state
            flags = _FLAGS[random | (_SAMPLED if decision.is_sampled() else 0)]
        own = SpanContext(trace_id, tracer.id_generator.generate_span_id(), False, flags, state)
        record_end_metrics = tracer._tracer_metrics.start_span(parent, decision)
        if decision is not _RECORD_AND_SAMPLE and not decision.is_recording():
            return NonRecordingSpan(own)
        # A sampler of the program's may have removed the attributes, or added others.
        attributes = attributes or {}
        is_plain = len(attributes) <= self._max_attributes and _are_plain(attributes)
        if tracer.resource is not self._resource:
            self._resource = tracer.resource
            self._fields["_resource"] = _HashedResource(self._resource)
        fields = self._fields.copy()
        fields["_name"] = name
        fields["_context"] = own
        fields["_kind"] = kind
        fields["_parent"] = parent
        fields["_start_time"] = time_ns() if start_time is None else start_time
        fields["_record_end_metrics"] = record_end_metrics
        fields["_lock"] = threading.Lock()
        fields["_plain"] = dict(attributes) if is_plain else {}
        light: LightSpan = object.__new__(LightSpan)
        light.__dict__ = fields
        if links:
            light.__dict__["_links"] = light._new_links(links)
        if attributes and not is_plain:
            light.set_attributes(attributes)
        tracer.span_processor.on_start(light, parent_context=context)
        return light


def _samples_children(sampler: Sampler) -> bool:
    """Return whether a sampler of the SDK's samples each span whose parent is local and sampled, and changes nothing.

    To ask it takes as long as half of the rest of a span's start.
    """
    if type(sampler) in _PARENT_BASED:
        sampler = sampler._local_parent_sampled  # type: ignore[attr-defined] # that class has it
    return type(sampler) is StaticSampler and sampler._decision is _RECORD_AND_SAMPLE


def _are_plain(attributes: Mapping[str, Any]) -> bool:
    """Return whether the SDK would keep all of these attributes as they are."""
    # The types of all at once, as a loop takes four times as long.
    if "" in attributes or not _TEXT.issuperset(map(type, attributes)):
        return False
    if _PLAIN_TYPES.issuperset(map(type, attributes.values())):
        return True
    if not _PLAIN_OR_TUPLE.issuperset(map(type, attributes.values())):
        return False
    for value in attributes.values():
        if type(value) is tuple:
            items = set(map(type, value))
            if not (items <= _TEXT or items <= _FLOATS):
                return False
    return True
