"""Feed forged pickles to the readers, as a program of its own, so that a crash is seen and memory is limited.

    python fuzz_pickles.py ROUNDS SEED FILE...

Every input is read as statistics and as a space. A refusal is right, and so is
an answer; anything else ends this program with an error or a signal.
"""

from __future__ import annotations

import pickle
import pickletools
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.errors import PolicyctlError
from policyctl_exporters.inert_pickle import read_inert
from policyctl_exporters.made_spaces import rebuild_space
from policyctl_exporters.normalizer import normalizer_of

_MEMORY_BYTES = 3 << 30
_NAMES = (
    b"numpy.core.multiarray\n_reconstruct",
    b"numpy.core.multiarray\nscalar",
    b"numpy\nndarray",
    b"numpy\ndtype",
    b"numpy\nvoid",
    b"numpy.core.numeric\n_frombuffer",
    b"builtins\nbytearray",
    b"builtins\ngetattr",
    b"collections\nOrderedDict",
    b"collections\ndeque",
    b"copyreg\n_reconstructor",
    b"gym.spaces.box\nBox",
    b"gymnasium.spaces.dict\nDict",
    b"gymnasium.spaces.multi_discrete\nMultiDiscrete",
)
_ATTRIBUTES = (
    b"low",
    b"high",
    b"dtype",
    b"n",
    b"nvec",
    b"spaces",
    b"obs_rms",
    b"mean",
    b"var",
    b"clip_obs",
    b"epsilon",
)
_CODES = (b"O8", b"f8", b"<f4", b"V16", b"i8", b"S10", b"|", b"<", b"latin1")


def read(content: bytes) -> None:
    """What an export does with a pickle of data."""
    try:
        found = read_inert(content, what="fuzz")
    except PolicyctlError:
        return
    for use in (lambda: normalizer_of(found, "fuzz"), lambda: rebuild_space(found, what="fuzz")):
        try:
            use()
        except PolicyctlError:
            continue
    try:
        np.asarray(found)
    except ValueError:
        return


def operations() -> st.SearchStrategy[bytes]:
    """One opcode with an argument that its decoder accepts."""
    plain = [op.code.encode("latin-1") for op in pickletools.opcodes if op.arg is None and op.name != "STOP"]
    text = st.sampled_from((*_ATTRIBUTES, *_CODES))
    size = st.integers(0, 2**32 - 1).map(lambda n: n.to_bytes(4, "little"))
    return st.one_of(
        st.sampled_from(plain),
        st.sampled_from(_NAMES).map(lambda name: b"c" + name + b"\n"),
        text.map(lambda value: b"\x8c" + bytes([len(value)]) + value),
        st.binary(max_size=40).map(lambda value: b"C" + bytes([len(value)]) + value),
        st.binary(max_size=40).map(lambda value: b"U" + bytes([len(value)]) + value),
        st.integers(0, 255).map(lambda n: b"K" + bytes([n])),
        st.integers(0, 20).map(lambda n: b"h" + bytes([n])),
        size.map(lambda n: b"J" + n),
        size.map(lambda n: b"r" + n),
        size.map(lambda n: b"B" + n),
        st.integers(0, 2**63).map(lambda n: b"\x96" + n.to_bytes(8, "little")),
    )


def mutations(files: list[bytes], rng: random.Random, rounds: int) -> Iterator[bytes]:
    """Real pickles with bytes changed, cut, repeated, and opcodes spliced in."""
    tokens = [
        b"O8",
        b"V8",
        b"(",
        b"R",
        b"b",
        b"}",
        b".",
        b"0",
        b"2",
        b"\x88",
        b"N",
        *(b"c" + n + b"\n" for n in _NAMES),
    ]
    for _ in range(rounds):
        content = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(content))
            match rng.randrange(5):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    del content[at : at + rng.randrange(1, 40)]
                case 2:
                    content[at:at] = rng.choice(tokens)
                case 3:
                    other = rng.choice(files)
                    cut = rng.randrange(len(other))
                    content[at:at] = other[cut : cut + rng.randrange(1, 60)]
                case 4:
                    if (where := content.find(b"f8")) >= 0:
                        content[where : where + 2] = rng.choice((b"O8", b"V8", b"S8", b"f4"))
            if not content:
                break
        yield bytes(content)


def main(rounds: int, seed: int, paths: list[str]) -> None:
    """Run it."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    files = [Path(path).read_bytes() for path in paths]
    files += [pickle.dumps(pickle.loads(pickle.dumps(np.arange(3.0))), protocol) for protocol in range(6)]
    for content in mutations(files, random.Random(seed), rounds):
        read(content)

    @settings(max_examples=rounds, deadline=None, derandomize=True, database=None)
    @given(st.lists(operations(), max_size=60))
    def programs(parts: list[bytes]) -> None:
        read(b"\x80\x04" + b"".join(parts) + b".")

    programs()
    sys.stdout.write(f"{2 * rounds} read\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
