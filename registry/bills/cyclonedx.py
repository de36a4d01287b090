"""A bill of materials as CycloneDX JSON 1.6, for other programs: https://cyclonedx.org/docs/1.6/json/."""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from registry.bills.licences import GROUPS, strictness_of
from registry.bills.materials import Material, strictest_first
from registry.errors import InvalidField

if TYPE_CHECKING:  # an extra: who writes no bill need not have it
    from cyclonedx.model.component import Component

#: Serial numbers of one record are equal: made of this and its digest.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/adapter-zoo")


def as_cyclonedx(materials: Sequence[Material]) -> str:
    """The bill of the first of the materials, which is made from the others.

    Components are models and data, each with its files and their SHA-256; dependencies say what is made from
    what; the properties `zoo:licence:NN` list every licence, the strictest first.

    Raises:
        InvalidField: the library that writes it is not installed.
    """
    try:
        from cyclonedx.model import Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        allowed = "left out until its library is installed: pip install 'adapter-zoo[sbom]'"
        raise InvalidField("--sbom", allowed=allowed, value=str(error)) from error
    components = {material.key: _component(material) for material in materials}
    main, *others = (components[material.key] for material in materials)
    bill = Bom(
        components=others, serial_number=uuid.uuid5(_NAMESPACE, f"{main.bom_ref.value} {materials[0].digest}")
    )
    bill.metadata.component = main
    bill.metadata.properties.update(
        Property(name=f"zoo:licence:{place:02}", value=line)
        for place, line in enumerate(licence_lines(materials), start=1)
    )
    for material in materials:
        bill.register_dependency(components[material.key], [components[key] for key in material.made_of])
    text: str = JsonV1Dot6(bill).output_as_string(indent=2)
    return text


def licence_lines(materials: Sequence[Material]) -> list[str]:
    """`cc-by-nc-4.0: dataset:bio@1 (not for commercial use, …)`, the strictest licence first.

    A composition has no licence of its own; those of its parts hold for it.
    """
    return [
        f"{material.licence or 'none stated'}: {material.key}"
        f" ({GROUPS[strictness_of(material.licence)].meaning})"
        for material in strictest_first(materials)
        if material.kind != "composition"
    ]


def _component(material: Material) -> "Component":
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    name, _, version = material.reference.partition("@")
    facts = {"zoo:digest": material.digest, "zoo:origin": material.origin}
    facts |= {f"zoo:missing:{number}": key for number, key in enumerate(material.missing, start=1)}
    return Component(
        type=ComponentType.DATA if material.kind == "dataset" else ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        group=material.kind,
        version=version or None,
        bom_ref=material.key,
        licenses=[LicenseFactory().make_from_string(material.licence)] if material.licence else [],
        properties=[Property(name=name, value=value) for name, value in facts.items()],
        components=[
            Component(
                type=ComponentType.FILE,
                name=file.path,
                bom_ref=f"{material.key}/{file.path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.digest.removeprefix("sha256:"))],
                properties=[Property(name="zoo:size_bytes", value=str(file.size_bytes))],
            )
            for file in material.files
        ],
    )
