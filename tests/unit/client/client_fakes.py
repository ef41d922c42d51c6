"""What a fake server says of itself to a client."""

from __future__ import annotations

import json

from policyctl.client.served import ModelConfig
from policyctl.domain.contract import Contract


def model_config(contract: Contract, release: str, slot: int, **more: str) -> ModelConfig:
    """The configuration of a model whose only slot has `release`; `more` parameters besides."""
    parameters = {
        "contract": json.dumps(contract.to_json()),
        "release": release,
        "releases": json.dumps({str(slot): release}),
        **more,
    }
    return ModelConfig(parameters, 64)
