"""Cards and texts to write into them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

DIGEST = "sha256:" + "0" * 64
EVIDENCE = {"file": "evidence/a.json", "digest": DIGEST}

FULL: dict[str, Any] = {
    "schema_version": 2,
    "name": "Walker",
    "summary": "Walks.",
    "contract": {
        "digest": DIGEST,
        "observations": ["observation: float32[3]"],
        "outputs": ["action: float32[1]"],
        "action_kind": "continuous",
        "distribution": "none",
    },
    "training": {
        "algorithm": "PPO",
        "framework": {"name": "stable-baselines3", "version": "2.9.2"},
        "environment": {"id": "Pendulum-v1", "options": {"g": 9.81}},
        "steps": 1000,
        "environments": 8,
        "seed": 0,
        "commit": "0123abc",
        "hyperparameters": {"gamma": 0.99, "use_sde": False, "ent_coef": "auto"},
        "libraries": {"torch": "2.13.0"},
    },
    "evaluation": [
        {
            "environment": "Pendulum-v1",
            "episodes": 20,
            "first_seed": 0,
            "returns": {"mean": -153.49, "low": -170.0, "high": -140.5, "confidence": 0.95, "std": 96.4},
            "format": "onnx",
            "time": "2026-01-31T23:59:59+00:00",
            "evidence": EVIDENCE,
        }
    ],
    "behaviour": [
        {
            "observations": "golden set",
            "rows": 64,
            "saturation": 0.25,
            "roughness": 0.125,
            "pairs": 10,
            "entropy": 1.5,
            "actions": [{"name": "action[0]", "quantiles": [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]}],
            "evidence": EVIDENCE,
        },
        {
            "observations": "CartPole-v1",
            "rows": 100,
            "actions": [{"name": "action[0]", "shares": {"0": 0.5, "1": 0.5}}],
            "evidence": EVIDENCE,
        },
    ],
    "performance": [
        {
            "machine": {"fingerprint": "0123456789ab", "words": "Some CPU, 2 of 2 cores usable"},
            "format": "onnx",
            "load": "grpc, batch 1, 8 clients",
            "latency_us": {"p50": 500.0, "p95": 800.0, "p99": 900.0},
            "throughput_per_s": 4000.0,
            "memory_mb": 94.0,
            "requests": 5000,
            "failed": 0,
            "evidence": EVIDENCE,
        }
    ],
    "parity": {
        "tolerance": {"atol": 1e-4, "rtol": 1e-4, "tie": 1e-4},
        "formats": {"onnx": {"rows": 288, "near_ties": 0, "max_abs": {"action": 1e-07}}},
        "golden_rows": 64,
        "seed": 0,
    },
    "limits_of_use": {"intended": ["Level floors"], "out_of_scope": ["Stairs"], "risks": ["Falls"]},
    "licence": "Apache-2.0",
    "owners": [{"name": "Team", "contact": "team@example.org"}],
    "provenance": {
        "created": "2026-01-31T23:59:59+00:00",
        "source": {"kind": "sb3", "file": "ppo.zip", "digest": DIGEST},
        "repository": "https://example.org/walker",
        "exported_with": {"onnx": "1.22.0", "torch": "2.13.0", "openvino": "2026.4.1"},
    },
    "service_level": {"p99_ms": 5, "batch_size": 64},
    "extensions": {"ticket": 17},
    "release": {
        "model": "walker",
        "release": "1.0.0",
        "slot": 1,
        "manifest_digest": DIGEST,
        "published": "2026-01-31T23:59:59+00:00",
        "by": "someone@somewhere",
        "files": [{"path": "model.onnx", "size_bytes": 3, "digest": DIGEST}],
        "gates": [
            {
                "gate": "parity",
                "verdict": "passed",
                "time": "2026-01-31T23:59:59+00:00",
                "evidence": {"file": "evidence/p.json", "digest": DIGEST, "kept_in": "journal"},
            }
        ],
        "signatures": [
            {
                "name": "alice",
                "method": "key",
                "key": DIGEST,
                "since": "2026-01-31T23:59:59+00:00",
                "standing": "trusted",
                "signer": "Alice",
                "evidence": {"file": "signatures/walker/1.0.0/alice.sig", "digest": DIGEST, "kept_in": "journal"},
            }
        ],
        "problems": ["x.json is missing"],
    },
}
"""Every section."""

PUBLISHED = {key: value for key, value in FULL.items() if key != "release"}

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "</title></style></table>",
    "[x](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "https://example.org/",
    "someone@example.org",
    "a | b |\n| --- |",
    "# a heading",
    "- a list",
    "1. a list",
    "> a quotation",
    "```\ncode\n```",
    "~~~ code",
    "*a* _b_ `c` ~~d~~ $e$",
    "---\nlicense: mit\n---",
    "a: b # c",
    "- [ ] {a: b}",
    "!!python/object/apply:os.system [x]",
    "&a *a",
    "no",
    "1e-4",
    "0x10",
    "2026-01-31",
    "1:30",
    "~",
    "",
    " ",
    "\u2028\u202e\ufeff",
    "a\\b\\|c",
    "&lt;b&gt; &amp;",
    "é 漢字 \U0001f600",
    "<!-- c --> --> ]]>",
    "%s {0} ${x}",
    "line\n\n\nline\t\n",
)
"""Texts that mean something to YAML, Markdown or HTML."""

printable = st.sampled_from(HOSTILE) | st.text(
    st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\t<>&\"'|#-*_`[]()!:@\\ "), max_size=40
)
"""Texts that a card may hold."""

anything = st.sampled_from(HOSTILE) | st.text(max_size=40)
"""Texts that it may not hold as well."""

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | printable,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(printable, each, max_size=3),
    max_leaves=12,
)
"""Whatever YAML can say that JSON can say too."""

SB3_DATA = {
    "policy_class": {":type:": "x", ":serialized:": "no pickle", "__module__": "stable_baselines3.common.policies"},
    "num_timesteps": 5000,
    "n_envs": 8,
    "seed": 7,
    "gamma": 0.99,
    "clip_range": {":type:": "function"},
    "learning_rate": 0.0,
    "gae_lambda": float("nan"),
    "ent_coef": "auto",
    "verbose": 1,
}
SB3_INFO = "- OS: Linux-5.14 somebody-s-machine\n- Python: 3.9.13\n- PyTorch: 2.1.0+cu118\n- GPU Enabled: False\n"


def sb3_archive(path: Path, data: object = SB3_DATA) -> Path:
    """An archive of Stable-Baselines3, as far as it is read without unpickling."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("system_info.txt", SB3_INFO)
        archive.writestr("_stable_baselines3_version", "2.4.0\n\x1b[31m")
    return path
