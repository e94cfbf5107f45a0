"""A few loops over all values miss no change that a look at each would see."""

from collections import OrderedDict, deque

import pytest

from pyrometa.recording.unchanged import Unchanged
from pyrometa.recording.walk import Walk


class Thing:
    def __init__(self, **held):
        vars(self).update(held)


class Slotted:
    __slots__ = ("inner",)

    def __init__(self):
        self.inner = object()


def things():
    """Containers and objects of each kind, all reached from one."""
    return Thing(
        empty={},
        table={"a": object(), "b": object()},
        ordered=OrderedDict(a=object(), b=object()),
        items=[object(), object()],
        members={1.5},
        queue=deque([object()]),
        inner=Thing(x=object(), y=object()),
        other=Thing(z=object()),
        slotted=Slotted(),
    )


def swap(held, one, other):
    held[one], held[other] = held[other], held[one]


def move_between(root):
    """As many keys and values in the same order, in other dictionaries."""
    root.other.__dict__ = {"y": vars(root.inner).pop("y"), **vars(root.other)}


def reorder(root):
    """The keys in their order, and the values too, each under another key."""
    a, b = root.ordered["a"], root.ordered["b"]
    del root.ordered["a"]
    root.ordered["a"] = b
    root.ordered["b"] = a
    root.ordered.move_to_end("a", last=False)


CHANGES = {
    "a key in an empty dictionary": lambda r: r.empty.update(a=1),
    "two values change places": lambda r: swap(r.table, "a", "b"),
    "two keys change places": lambda r: r.table.update(a=r.table.pop("a")),
    "the same, in order of insertion": reorder,
    "the order alone": lambda r: r.ordered.move_to_end("a"),
    "an item is another": lambda r: r.items.__setitem__(0, object()),
    "two items change places": lambda r: swap(r.items, 0, 1),
    "an item more": lambda r: r.items.append(r.items[0]),
    "a member is equal": lambda r: (r.members.clear(), r.members.add(float("1.5"))),
    "a queue is turned": lambda r: r.queue.append(r.queue.popleft() and object()),
    "an attribute is another": lambda r: setattr(r.inner, "x", object()),
    "an attribute more": lambda r: setattr(r.inner, "w", r.inner.x),
    "an attribute under another name": lambda r: setattr(r.other, "w", vars(r.other).pop("z")),
    "an attribute of another object": move_between,
    "another dictionary of attributes": lambda r: setattr(r.inner, "__dict__", dict(vars(r.inner), x=object())),
    "another class": lambda r: setattr(r.inner, "__class__", type("Other", (Thing,), {})),
    "a slot": lambda r: setattr(r.slotted, "inner", object()),
    "a slot without a value": lambda r: delattr(r.slotted, "inner"),
}


def watched(root):
    walk = Walk(())
    walk.add("root", root)
    walk.settle()
    return walk.parts


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_seen(change):
    root = things()
    unchanged = Unchanged(watched(root))
    assert unchanged()
    assert unchanged()
    CHANGES[change](root)
    assert not unchanged()


def test_what_changed_before_is_not_unchanged():
    root = things()
    parts = watched(root)
    root.inner.x = object()
    assert not Unchanged(parts)()
