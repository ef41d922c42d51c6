"""What is searched, and what becomes of what was found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policyctl.adapters.pbtxt import ServingOptions
from policyctl.domain.artifacts import Format
from policyctl.domain.fold import fold
from policyctl.domain.journal import GENESIS, Record, RecordKind
from policyctl.errors import UsageError
from policyctl.services.experiments.tuning_bench import Trial
from policyctl.services.experiments.tuning_space import Choice, size_of, space
from policyctl.services.moves.serving_options import keep, serving_options
from policyctl.serving.hardware import detect
from policyctl.settings import ServingSettings

CHOICE = Choice(instances=2, max_queue_delay_us=100, preferred_batch_sizes=(4, 8), threads=2)


def test_a_machine_with_more_cores_has_more_to_search() -> None:
    """Never more instances or threads than cores, and one of each in any case."""
    small, large = (replace(detect(), usable_cores=cores, cpu_limit=None) for cores in (1, 8))
    assert space(small, Format.OPENVINO, max_batch_size=64)["instances"] == (1,)
    assert space(large, Format.OPENVINO, max_batch_size=64)["threads"] == (1, 2, 4, 8)
    assert "threads" not in space(large, Format.ONNX, max_batch_size=64)


def test_no_batch_is_preferred_that_is_larger_than_allowed() -> None:
    """Triton would refuse the configuration."""
    found = space(detect(), Format.ONNX, max_batch_size=4)["preferred_batch_sizes"]
    assert all(size <= 4 for sizes in found for size in sizes)
    assert len(set(found)) == len(found)


def test_configurations_that_are_the_same_by_another_name_are_tried_once() -> None:
    """Without a delay nothing waits, so nothing is preferred."""
    searched = {"instances": (1, 2), "max_queue_delay_us": (0, 100), "preferred_batch_sizes": ((), (4,), (8,))}
    assert size_of(searched) == 2 * (1 + 3)


def test_a_trial_beyond_the_limit_is_worth_less_than_any_within_it() -> None:
    """And the less the farther; one that could not be measured is worth least."""
    limit = 1000.0
    within = Trial(CHOICE, -0.5, 999.0).score(limit)
    beyond, far = (Trial(CHOICE, 2.0, p99).score(limit) for p99 in (1100.0, 9000.0))
    assert within > beyond > far > Trial(CHOICE, None, None).score(limit)


def test_what_is_set_goes_before_what_was_tuned_and_that_before_the_defaults() -> None:
    """An operator's setting always counts."""
    tuned = {"instances": 2, "max_queue_delay_us": 100, "parameters": {"INFERENCE_NUM_THREADS": "2"}}
    assert serving_options(ServingSettings(), {}) == ServingOptions()
    found = serving_options(ServingSettings(instances=3, parameters={"NUM_STREAMS": "1"}), tuned)
    assert (found.instances, found.max_queue_delay_us, found.max_batch_size) == (3, 100, 64)
    assert found.parameters == {"INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "1"}


def test_what_was_found_is_kept_in_the_journal_and_forgotten_there() -> None:
    """The last record of a model counts; other models keep theirs."""

    def record(seq: int, model: str, options: object) -> Record:
        return Record(seq, GENESIS, "t", "a@b", RecordKind.TUNED, {"model": model, "options": options, "reason": ""})

    kept = [record(0, "walker", CHOICE.settings()), record(1, "arm", {"instances": 4})]
    state = fold(kept)
    options = serving_options(ServingSettings(), state.tuned["walker"])
    assert (options.instances, options.preferred_batch_sizes) == (2, (4, 8))
    assert options.parameters == {"INFERENCE_NUM_THREADS": "2"}
    assert fold([record(2, "walker", None)], state).tuned == {"arm": {"instances": 4}}


def test_only_what_can_be_tuned_is_kept() -> None:
    """A name that nothing reads would be ignored in silence."""
    with pytest.raises(UsageError, match="cannot be tuned"):
        keep(None, "walker", {"gpu": True}, reason="")  # type: ignore[arg-type]
