"""Model cards: what a release says of itself, checked, and held against evidence.

A card in a release is *published*: covered by the manifest, never changed.
What is measured later stands in the journal's evidence. The *full* card is
both together, made when it is shown; `services.card` makes it.

Everything here is plain values and text: bytes in, bytes out.
"""
