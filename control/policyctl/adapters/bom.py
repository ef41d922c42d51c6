"""The machine-learning bill of materials of a release: CycloneDX 1.6, as JSON.

cyclonedx-python-lib writes the components, hashes, licences and dependencies;
it has no model of a model card, so that section is put into the document that
it wrote, in the form that the schema prescribes.

The same card gives the same bytes: the serial number follows from the manifest,
the time is that of publishing, and the version counts the evidence that the
card cites, so it grows when more was measured.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from policyctl import __version__
from policyctl.card.schema import Card, Evidence, Release
from policyctl.errors import UnsupportedError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component


def render(card: Card, release: Release) -> str:
    """The document.

    Args:
        card: A full card.
        release: Its section ``release``.

    Raises:
        UnsupportedError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        raise UnsupportedError(
            "a bill of materials needs cyclonedx-python-lib, which is not installed",
            remedy="pip install 'policyctl[card]'",
        ) from error
    main = _model(card, release)
    libraries = list(_libraries(card))
    environments = [
        Component(type=ComponentType.DATA, name=name, bom_ref=f"environment:{name}", description="environment")
        for name in sorted(_environments(card))
    ]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"policyctl:{release.manifest_digest}"),
        version=1 + len(_cited(card)),
        components=[*libraries, *environments],
    )
    bom.metadata.timestamp = datetime.fromisoformat(release.published)
    bom.metadata.tools.components.add(Component(type=ComponentType.APPLICATION, name="policyctl", version=__version__))
    bom.metadata.component = main
    bom.register_dependency(main, [*libraries, *environments])
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(card)
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _model(card: Card, release: Release) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.contact import OrganizationalContact
    from packageurl import PackageURL

    digests = {"policyctl:manifest": release.manifest_digest}
    if card.training and card.training.commit:
        digests["policyctl:training:commit"] = card.training.commit
    if card.provenance and card.provenance.source and card.provenance.source.digest:
        digests["policyctl:exported-from"] = card.provenance.source.digest
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=release.model,
        version=release.release,
        description=_clean(card.summary) if card.summary else None,
        bom_ref=f"model:{release.model}@{release.release}",
        purl=PackageURL("generic", None, release.model, release.release),
        licenses=[LicenseFactory().make_from_string(card.licence)] if card.licence else None,
        authors=[OrganizationalContact(name=_clean(owner.name), email=_email(owner.contact)) for owner in card.owners],
        properties=[Property(name=name, value=value) for name, value in digests.items()],
        components=[
            Component(
                type=ComponentType.FILE,
                name=file.path,
                bom_ref=f"file:{file.path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.digest.removeprefix("sha256:"))],
            )
            for file in release.files
        ],
    )


def _libraries(card: Card) -> Iterator[Component]:
    """What had a part in training and export."""
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    exported = card.provenance.exported_with if card.provenance else {}
    trained = dict(card.training.libraries) if card.training else {}
    if card.training and card.training.framework and card.training.framework.version:
        trained[card.training.framework.name] = card.training.framework.version
    for role, found in (("export", exported), ("training", trained)):
        for name, version in sorted(found.items()):
            clean, number = _clean(name), _clean(version)
            yield Component(
                type=ComponentType.FRAMEWORK if role == "training" else ComponentType.LIBRARY,
                name=clean,
                version=number,
                bom_ref=f"{role}:{clean}@{number}",
                purl=PackageURL("pypi", None, clean.lower(), number) if _is_on_pypi(clean) else None,
                properties=[Property(name="policyctl:role", value=role)],
            )


def _is_on_pypi(name: str) -> bool:
    """Whether a library can be there by its name (PEP 508), as one in somebody's own words cannot."""
    named = re.fullmatch(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", name, re.ASCII | re.IGNORECASE)
    return named is not None and name not in {"python", "policyctl"}


def _model_card(card: Card) -> dict[str, Any]:
    """The section ``modelCard`` of CycloneDX 1.6."""
    parameters: dict[str, Any] = {"approach": {"type": "reinforcement-learning"}, "task": "control"}
    if card.training and card.training.algorithm:
        parameters["modelArchitecture"] = _clean(card.training.algorithm)
    if environments := sorted(_environments(card)):
        parameters["datasets"] = [{"ref": f"environment:{name}"} for name in environments]
    if card.contract:
        parameters["inputs"] = [{"format": _clean(words)} for words in card.contract.observations]
        parameters["outputs"] = [{"format": _clean(words)} for words in card.contract.outputs]
    found: dict[str, Any] = {"modelParameters": parameters}
    if metrics := list(_metrics(card)):
        found["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    if limits := card.limits_of_use:
        considerations: dict[str, Any] = {
            "useCases": [_clean(words) for words in limits.intended],
            "technicalLimitations": [_clean(words) for words in limits.out_of_scope],
            "ethicalConsiderations": [{"name": _clean(words)} for words in limits.risks],
        }
        found["considerations"] = {name: words for name, words in considerations.items() if words}
    cited = [{"name": f"policyctl:evidence:{name}", "value": digest} for name, digest in sorted(_cited(card).items())]
    if cited:
        found["properties"] = cited
    return found


def _metrics(card: Card) -> Iterator[dict[str, Any]]:
    for each in card.evaluation:
        yield {
            "type": "mean return",
            "value": f"{each.returns.mean:g}",
            "slice": _clean(f"{each.environment}, {each.episodes} episodes, {each.evidence.file}"),
            "confidenceInterval": {"lowerBound": f"{each.returns.low:g}", "upperBound": f"{each.returns.high:g}"},
        }
    for seen in card.behaviour:
        figures = {"saturation": seen.saturation, "roughness": seen.roughness, "entropy, nats": seen.entropy}
        for name, value in figures.items():
            if value is not None:
                yield {
                    "type": name,
                    "value": f"{value:g}",
                    "slice": _clean(f"{seen.observations}, {seen.evidence.file}"),
                }
    for speed in card.performance:
        where = _clean(f"{speed.machine.fingerprint}, {speed.format}, {speed.load}, {speed.evidence.file}")
        latency = speed.latency_us
        for name, number in (("p50", latency.p50), ("p95", latency.p95), ("p99", latency.p99)):
            yield {"type": f"latency {name}, us", "value": f"{number:g}", "slice": where}
        yield {"type": "observations per second", "value": f"{speed.throughput_per_s:g}", "slice": where}
        if speed.memory_mb is not None:
            yield {"type": "memory, MB", "value": f"{speed.memory_mb:g}", "slice": where}


def _environments(card: Card) -> set[str]:
    found = {entry.environment for entry in card.evaluation}
    if card.training and card.training.environment:
        found.add(card.training.environment.id)
    return {_clean(name) for name in found}


def _cited(card: Card) -> dict[str, str]:
    """Every piece of evidence with its digest."""
    gates = card.release.gates if card.release else []
    seen: list[Evidence] = [e.evidence for e in card.evaluation]
    seen += [e.evidence for e in card.behaviour] + [e.evidence for e in card.performance] + [g.evidence for g in gates]
    return {evidence.file: evidence.digest for evidence in seen}


def _email(contact: str | None) -> str | None:
    return _clean(contact) if contact and "@" in contact and " " not in contact else None


def _clean(text: str) -> str:
    """`text` without what JSON's readers disagree about: lone halves of a character, control characters."""
    return "".join(c if c.isprintable() else " " for c in text).strip() or "-"
