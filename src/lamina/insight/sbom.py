"""Writes the packages of an image as a software bill of materials: SPDX 2.3 or CycloneDX 1.6, as JSON, with the
formats' own libraries (extra ``sbom``). The same image gives the same bytes."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from lamina.errors import Unsupported
from lamina.insight.packages import Inventory, Package
from lamina.source.stack import Stack
from lamina.spec.image_config import parse_time
from lamina.version import __version__

FORMATS = ("spdx", "cyclonedx")
_HINT = "run `pip install 'lamina[sbom]'`"


def bill(stack: Stack, found: Inventory, format: str) -> str:
    """Return the SBOM in one of FORMATS. Raises Unsupported if the extra is not installed."""
    return _spdx(stack, found) if format == "spdx" else _cyclonedx(stack, found)


def _when(stack: Stack) -> datetime:
    """Return the image's creation time, so that the SBOM of an image is reproducible."""
    made = parse_time(stack.config.created)
    made = datetime(1970, 1, 1, tzinfo=UTC) if made is None else made.astimezone(UTC)
    return made.replace(microsecond=0)


def _properties(package: Package) -> list[tuple[str, str]]:
    return [
        ("lamina:layer:index", str(package.layer)),
        ("lamina:layer:diffID", package.diff_id),
        ("lamina:path", "/" + package.path.decode("utf-8", "backslashreplace")),
    ]


def _cyclonedx(stack: Stack, found: Inventory) -> str:
    try:
        from cyclonedx.model import Property
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
        from packageurl import PackageURL
    except ImportError as error:
        raise Unsupported(f"CycloneDX needs the package {error.name}, which is not installed", hint=_HINT) from None
    digest = str(stack.manifest.descriptor.digest)
    image = Component(name=stack.name, version=digest, type=ComponentType.CONTAINER, bom_ref=digest)
    tool = Component(name="lamina", version=__version__, type=ComponentType.APPLICATION, bom_ref="lamina")
    metadata = BomMetaData(component=image, timestamp=_when(stack))
    metadata.tools.components.add(tool)
    bom = Bom(metadata=metadata, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{digest}#cyclonedx"))
    for number, package in enumerate(found.packages, 1):
        bom.components.add(
            Component(
                name=package.name,
                version=package.version,
                type=ComponentType.LIBRARY,
                purl=PackageURL.from_string(package.purl),
                bom_ref=f"package-{number}",
                properties=[Property(name=name, value=value) for name, value in _properties(package)],
            )
        )
    bom.register_dependency(image, bom.components)
    written: str = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    return written


def _spdx(stack: Stack, found: Inventory) -> str:
    try:
        from spdx_tools.spdx.jsonschema.document_converter import DocumentConverter
        from spdx_tools.spdx.model import (
            Actor,
            ActorType,
            Annotation,
            AnnotationType,
            CreationInfo,
            Document,
            ExternalPackageRef,
            ExternalPackageRefCategory,
            PackagePurpose,
            Relationship,
            RelationshipType,
            SpdxNoAssertion,
        )
        from spdx_tools.spdx.model import Package as SpdxPackage
    except ImportError as error:
        raise Unsupported(f"SPDX needs the package {error.name}, which is not installed", hint=_HINT) from None
    digest, when = str(stack.manifest.descriptor.digest), _when(stack).replace(tzinfo=None)
    tool = Actor(ActorType.TOOL, f"lamina-{__version__}")
    top = SpdxPackage(
        "SPDXRef-Image",
        stack.name,
        SpdxNoAssertion(),
        version=digest,
        files_analyzed=False,
        primary_package_purpose=PackagePurpose.CONTAINER,
    )
    described = [top]
    relations = [
        Relationship("SPDXRef-DOCUMENT", RelationshipType.DESCRIBES, top.spdx_id),
    ]
    annotations: list[Any] = []
    for number, package in enumerate(found.packages, 1):
        ident = f"SPDXRef-Package-{number}"
        purl = ExternalPackageRef(ExternalPackageRefCategory.PACKAGE_MANAGER, "purl", package.purl)
        described.append(
            SpdxPackage(
                ident,
                package.name,
                SpdxNoAssertion(),
                version=package.version,
                files_analyzed=False,
                external_references=[purl],
            )
        )
        relations.append(Relationship(top.spdx_id, RelationshipType.CONTAINS, ident))
        said = "\n".join(f"{name}={value}" for name, value in _properties(package))
        annotations.append(Annotation(ident, AnnotationType.OTHER, tool, when, said))
    creation = CreationInfo(
        "SPDX-2.3",
        "SPDXRef-DOCUMENT",
        stack.name,
        f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{digest}#spdx')}",
        [tool],
        when,
    )
    document = Document(creation, packages=described, relationships=relations, annotations=annotations)
    converter = DocumentConverter()
    return json.dumps(converter.convert(document), indent=2)
