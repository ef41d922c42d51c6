"""A card for people and for other tools: nothing in it becomes markup, and others' validators accept it."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from card_examples import FULL, HOSTILE, anything
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from markdown_it import MarkdownIt

from policyctl.adapters import bom
from policyctl.card.reading import parse
from policyctl.card.schema import Card
from policyctl.measuring import card_report

PLACES = (
    ("name",),
    ("summary",),
    ("training", "algorithm"),
    ("training", "framework", "name"),
    ("training", "environment", "id"),
    ("training", "hyperparameters", "ent_coef"),
    ("evaluation", 0, "environment"),
    ("behaviour", 0, "observations"),
    ("behaviour", 1, "actions", 0, "name"),
    ("performance", 0, "machine", "words"),
    ("performance", 0, "load"),
    ("limits_of_use", "intended", 0),
    ("limits_of_use", "risks", 0),
    ("owners", 0, "name"),
    ("owners", 0, "contact"),
    ("provenance", "repository"),
    ("provenance", "exported_with", "onnx"),
    ("extensions", "ticket"),
    ("release", "problems", 0),
    ("release", "signatures", 0, "signer"),
)


def _with(text: str) -> Card:
    """A card with `text` wherever a person or a file may have put one; not checked, as a loose card is not."""
    data = copy.deepcopy(FULL)
    for *parents, last in PLACES:
        here: Any = data
        for part in parents:
            here = here[part]
        here[last] = text or "-"
    data["extensions"][text] = {text: [text]}
    return Card.model_validate(data)


class _Tags(HTMLParser):
    """Tags with their attributes' names, and all of the text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[Any] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, sorted(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.tags.append(("declaration", decl))


BENIGN = "x"


@settings(deadline=None, max_examples=30)
@given(text=anything)
def test_nothing_in_a_card_becomes_html(text: str) -> None:
    """Whatever the texts are, the page has the tags of a harmless card, and shows the texts."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(card_report, "_drawn", lambda _: {})  # a plot takes a tenth of a second
        harmless, found = _Tags(card_report.page(_with(BENIGN))), _Tags(card_report.page(_with(text)))
    assert found.tags == harmless.tags
    assert card_report._printable(text) in found.text


def test_the_page_has_plots_and_nothing_from_outside() -> None:
    """Returns, actions and latencies are drawn inside the page; no label becomes markup, nothing is loaded."""
    for text in HOSTILE[:3]:
        page = card_report.page(_with(text))
        tags = _Tags(page).tags
        names = {tag if isinstance(tag, str) else tag[0] for tag in tags}
        assert page.count("<svg") == 4
        assert not names & {"script", "img", "iframe", "a", "link", "object", "form"}
        assert "default-src 'none'" in page
        assert not any(isinstance(tag, tuple) and any(a.startswith("on") for a in tag[1]) for tag in tags)


def _tokens(text: str) -> tuple[list[str], str]:
    """Kinds of Markdown's tokens, and all of the text."""
    body = text.split("\n---\n", 1)[1]
    kinds, words = [], ""
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body):
        kinds.append(token.type)
        for child in token.children or ():
            if child.type not in {"text", "text_special"}:
                kinds.append(child.type)
            words += child.content
        words += "\n"
    return kinds, words


@settings(deadline=None, max_examples=30)
@given(text=anything)
def test_nothing_in_a_card_becomes_markdown(text: str) -> None:
    """No link, image, heading, list, code or HTML comes out of a text, and it is shown as it is."""
    kinds, words = _tokens(card_report.markdown(_with(text)))
    harmless, _ = _tokens(card_report.markdown(_with(BENIGN)))
    assert kinds == harmless
    assert card_report._printable(text) in words


@settings(deadline=None, max_examples=30)
@given(text=anything)
def test_nothing_in_a_card_breaks_the_front_matter(text: str) -> None:
    """Hugging Face reads exactly what was meant, whatever the names are."""
    card = _with(text)
    written = card_report.markdown(card)
    wanted = card_report.front_matter(card)
    assert yaml.safe_load(written.removeprefix("---\n").split("\n---\n", 1)[0]) == wanted
    assert ModelCard(written).data.to_dict()["license"] == "apache-2.0"


def test_hugging_face_reads_licence_library_tags_and_results() -> None:
    """Its own library takes the front matter, results included, without a word of complaint."""
    found = ModelCard(card_report.markdown(Card.model_validate(FULL))).data
    assert found.license == "apache-2.0"
    assert found.library_name == "stable-baselines3"
    assert found.pipeline_tag == "reinforcement-learning"
    assert {"reinforcement-learning", "Pendulum-v1", "PPO"} <= set(found.tags)
    (result,) = found.eval_results
    assert (result.task_type, result.dataset_name) == ("reinforcement-learning", "Pendulum-v1")
    assert (result.metric_type, result.metric_value) == ("mean_reward", "-153.49 +/- 96.40")


@pytest.mark.parametrize(
    ("spdx", "wanted"),
    [
        ("MIT", {"license": "mit"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("BSD-3-Clause", {"license": "bsd-3-clause"}),
        ("LicenseRef-Ours", {"license": "other", "license_name": "licenseref-ours"}),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "mit-or-apache-2.0"}),
    ],
)
def test_a_licence_is_called_as_hugging_face_calls_it(spdx: str, wanted: dict[str, str]) -> None:
    """An identifier that it knows, or `other` with a name."""
    front = card_report.front_matter(Card.model_validate({"schema_version": 2, "licence": spdx}))
    assert {key: front[key] for key in front if key.startswith("license")} == wanted


def test_every_figure_of_a_shown_card_names_its_evidence() -> None:
    """In Markdown and on the page each figure's row has a file and the beginning of its digest."""
    card = Card.model_validate(FULL)
    for text in (card_report.markdown(card), card_report.page(card)):
        plain = text.replace("\\", "")
        assert plain.count("evidence/a.json (sha256:000000000000)") == 4
    assert "someone" not in card_report.markdown(card)


def test_the_yaml_of_a_card_is_the_card() -> None:
    """What `card show` writes is read back as the same card."""
    card = Card.model_validate(FULL)
    assert Card.model_validate(parse(card_report.as_yaml(card).encode()).data) == card


def test_a_small_card_is_shown() -> None:
    """A card that says nothing has a title, and no empty table."""
    card = Card.model_validate({"schema_version": 2})
    assert "|" not in card_report.markdown(card)
    assert "<table" not in card_report.page(card)


def _bom(data: dict[str, Any]) -> str:
    card = Card.model_validate(data)
    assert card.release is not None
    return bom.render(card, card.release)


def test_the_bill_of_materials_is_valid_and_whole(bom_problem) -> None:
    """CycloneDX's own strict validator takes it; model, files, libraries, licence and figures are in it."""
    text = _bom(FULL)
    assert bom_problem(text) is None
    document = json.loads(text)
    model = document["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert (model["name"], model["version"]) == ("walker", "1.0.0")
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert model["components"][0]["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    purls = {component.get("purl") for component in document["components"]}
    assert {"pkg:pypi/onnx@1.22.0", "pkg:pypi/openvino@2026.4.1", "pkg:pypi/stable-baselines3@2.9.2"} <= purls
    (edges,) = [d for d in document["dependencies"] if d["ref"] == "model:walker@1.0.0"]
    assert "export:onnx@1.22.0" in edges["dependsOn"]
    assert "environment:Pendulum-v1" in edges["dependsOn"]
    card = model["modelCard"]
    assert card["modelParameters"]["approach"] == {"type": "reinforcement-learning"}
    assert card["modelParameters"]["datasets"] == [{"ref": "environment:Pendulum-v1"}]
    metrics = {metric["type"]: metric for metric in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["mean return"]["confidenceInterval"] == {"lowerBound": "-170", "upperBound": "-140.5"}
    assert {"saturation", "latency p99, us", "memory, MB"} <= metrics.keys()
    assert card["considerations"]["useCases"] == ["Level floors"]


def test_the_same_release_gives_the_same_bill() -> None:
    """Byte for byte; when more was measured its version is higher, and its serial number the same."""
    assert _bom(FULL) == _bom(copy.deepcopy(FULL))
    more = copy.deepcopy(FULL)
    more["evaluation"].append({**more["evaluation"][0], "evidence": {"file": "b.json", "digest": "sha256:" + "1" * 64}})
    one, other = json.loads(_bom(FULL)), json.loads(_bom(more))
    assert one["serialNumber"] == other["serialNumber"]
    assert one["version"] < other["version"]


@settings(deadline=None, max_examples=15)
@given(text=anything)
@example(text="/")
def test_any_card_gives_a_valid_bill(text: str, bom_problem) -> None:
    """Whatever the texts are, the validator takes the document."""
    card = _with(text)
    assert card.release is not None
    assert bom_problem(bom.render(card, card.release)) is None


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch) -> None:
    """Without cyclonedx-python-lib the refusal says what to type."""
    import sys

    from policyctl.errors import UnsupportedError

    monkeypatch.setitem(sys.modules, "cyclonedx.model.bom", None)
    with pytest.raises(UnsupportedError) as refusal:
        _bom(FULL)
    assert "policyctl[card]" in refusal.value.remedy
