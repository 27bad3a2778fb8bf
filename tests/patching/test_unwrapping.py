"""The removal of one wrapper among others, under either major version of wrapt."""

import textwrap
from functools import wraps

import wrapt

from loco_otel.patching import Target
from loco_otel.patching.patch_set import PatchSet
from loco_otel.patching.unwrapping import iterate_layers, remove_wrapper


def make_class() -> type:
    class Client:
        def request(self):
            return "answer"

    return Client


def wrap(owner, word):
    def wrapper(wrapped, _, args, kwargs):
        return f"{word} {wrapped(*args, **kwargs)}"

    return wrapt.wrap_function_wrapper(owner, "request", wrapper)


def test_outermost_wrapper_is_removed():
    client = make_class()
    original = vars(client)["request"]
    proxy = wrap(client, "ours")

    assert remove_wrapper(client, "request", proxy)
    assert vars(client)["request"] is original


def test_enclosed_wrapper_is_removed_between_others():
    client = make_class()
    wrap(client, "below")
    proxy = wrap(client, "ours")
    above = wrap(client, "above")

    assert remove_wrapper(client, "request", proxy)
    assert client().request() == "above below answer"
    assert vars(client)["request"] is above
    assert not any(layer is proxy for layer in iterate_layers(above))


def test_wrapper_under_a_plain_function_remains():
    client = make_class()
    proxy = wrap(client, "ours")

    @wraps(proxy)
    def plain(self):
        return proxy(self)

    client.request = plain

    assert not remove_wrapper(client, "request", proxy)
    assert client().request() == "ours answer"


def test_removal_is_idempotent_and_keeps_replacements():
    client = make_class()
    proxy = wrap(client, "ours")
    client.request = replacement = lambda _: "replaced"

    assert remove_wrapper(client, "request", proxy)
    assert remove_wrapper(client, "request", proxy)
    assert vars(client)["request"] is replacement


def test_wrapped_inherited_method_is_inherited_again():
    client = make_class()
    child = type("Child", (client,), {})
    proxy = wrap(child, "ours")

    assert remove_wrapper(child, "request", proxy)
    assert "request" not in vars(child)
    assert child().request() == "answer"


def test_function_of_module_is_wrapped_and_restored():
    original = textwrap.indent
    patch_set = PatchSet()
    target = Target("textwrap", None, "indent", lambda wrapped, _, args, kwargs: wrapped(*args, **kwargs) + "!")
    patch_set.apply_patches([target])
    patch_set.reapply_patches()
    assert textwrap.indent("a", " ") == " a!"
    assert patch_set.patched_methods == (str(target),) == ("textwrap.indent",)
    patch_set.remove_patches()
    assert textwrap.indent is original
    assert patch_set.patched_methods == ()
