"""Tensor operations recorded once and replayed for as long as nothing that they depend on has changed.

``record`` writes down what a function of tensors does, in as few operations as ``simplify`` can make of them; ``part``
does so for a part of a longer function that comes in it again and again, of which ``split`` makes one graph forward and
one back. ``recordings`` says when to record and what to replay; ``fingerprint`` is the state that a recording depends
on, which a ``walk`` finds, looking at each kind of value as ``watch`` tells it; ``kept`` mends what vmap leaves in a
program.
"""
