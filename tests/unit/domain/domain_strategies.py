"""Values of the domain for hypothesis: whatever the constructors allow."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from policyctl.domain.artifacts import Format
from policyctl.domain.contract import ACTION, ActionKind, Contract, Distribution, DistributionKind, Transform
from policyctl.domain.manifest import FileEntry, Manifest, digest_of
from policyctl.domain.moves import Placement
from policyctl.domain.tensor import DTYPES, Role, TensorSpec

tensor_names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n != ACTION)
unit_words = st.sampled_from(["", "rad", "deg", "N m"])
finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def specs(draw, name: str | None = None, *, taken: bool = False) -> TensorSpec:
    """Any tensor, `taken` or given by a policy: scalar, element-wise and missing bounds, features, units."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    size = math.prod(shape)
    low = draw(st.none() | finite | st.tuples(*[finite | st.just(-math.inf)] * size))
    high = draw(st.none() | finite | st.tuples(*[finite | st.just(math.inf)] * size))
    features = draw(st.just(()) | st.tuples(*[st.text(max_size=5)] * size))
    role = draw(st.sampled_from([None, Role.ACTION_MASK, Role.GOAL])) if taken else None  # others need one shape
    units = draw(unit_words | st.tuples(*[unit_words] * size))
    dtype = draw(st.sampled_from(DTYPES))
    return TensorSpec(name or draw(tensor_names), dtype, shape, low, high, features, role, units)


@st.composite
def contracts(draw) -> Contract:
    """Contracts of every kind of action and every distribution, each with the outputs that it needs."""
    names = draw(st.lists(tensor_names, min_size=1, max_size=3, unique=True))
    names = [n for n in names if n not in {"logits", "mean", "log_std"}] or ["observation"]
    observations = tuple(draw(specs(name=n, taken=True)) for n in names)
    kind = draw(st.sampled_from(DistributionKind))
    action = draw(specs(name=ACTION))
    outputs, nvec = [action], ()
    transform = Transform.NONE
    match kind:
        case DistributionKind.CATEGORICAL:
            action = TensorSpec(ACTION, "int64", (1,), 0.0, 2.0)
            outputs = [action, TensorSpec("logits", "float32", (3,))]
        case DistributionKind.MULTI_CATEGORICAL:
            nvec = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
            action = TensorSpec(ACTION, "int64", (len(nvec),))
            outputs = [action, TensorSpec("logits", "float32", (sum(nvec),))]
        case DistributionKind.BERNOULLI:
            outputs = [action, TensorSpec("logits", "float32", action.shape)]
        case DistributionKind.GAUSSIAN:
            transform = draw(st.sampled_from(Transform))
            outputs = [action, *(TensorSpec(n, "float32", action.shape) for n in ("mean", "log_std"))]
        case DistributionKind.NONE:
            pass
    law = Distribution(kind, nvec, transform)
    limit = draw(st.none() | st.integers(1, 64))
    return Contract(observations, tuple(outputs), draw(st.sampled_from(ActionKind)), law, limit)


digests = st.binary(max_size=8).map(digest_of)
parts = st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,4}", fullmatch=True)


@st.composite
def manifests(draw) -> Manifest:
    """Any manifest that the constructor allows."""
    folders = draw(st.lists(parts.map(lambda p: "d-" + p), max_size=2, unique=True))
    names = draw(st.lists(parts.map(lambda p: "f-" + p), min_size=1, max_size=4, unique=True))
    paths = {"/".join([*folders[: draw(st.integers(0, len(folders)))], name]) for name in names}
    entries = tuple(FileEntry(p, draw(st.integers(0, 2**40)), draw(digests)) for p in sorted(paths))
    return Manifest(draw(st.text(max_size=5)), draw(st.text(max_size=5)), entries)


def placement(release: str, slot: int = 1, format: Format = Format.ONNX, config: str | None = None) -> Placement:  # noqa: A002
    """A placement whose configuration names it."""
    return Placement(release, slot, digest_of(release.encode()), format, config or f"{release} {format}")
