"""Makes a new image of the same layers with another config."""

from __future__ import annotations

from lamina.edit.publish import docker_format, kept_annotations, own_config, publish, require_bottom, timestamp
from lamina.errors import UsageError
from lamina.light import TYPE_CHECKING
from lamina.source.stack import Stack
from lamina.spec.descriptor import Descriptor
from lamina.spec.image_config import History

if TYPE_CHECKING:
    from lamina.source.protocols import Writer
    from lamina.spec.image_config import Changes


def with_config(
    base: Stack,
    target: Writer,
    name: str,
    changes: Changes,
    *,
    created_by: str,
    comment: str = "",
    epoch: int | None = None,
) -> Descriptor:
    """Make an image with ``changes``, as ``ImageConfig.with_`` takes them; all layers are kept. The history gets a
    step without a layer. Raises UsageError, BlobNotFound (``target`` lacks a layer), SystemFailure."""
    require_bottom(base)
    if not changes:
        raise UsageError("nothing to change", hint="name a field to set or remove")
    created = timestamp(epoch)
    config = own_config(base)
    step = History(created=created, created_by=created_by, comment=comment, empty_layer=True)
    config = config.with_layers(config.diff_ids, [*config.aligned_history(), step.to_json()])
    merged: Changes = {"created": created, **changes}
    return publish(
        target,
        name,
        [handle.descriptor for handle in base.layers],
        config.with_(**merged),
        docker=docker_format([base]),
        purpose="config",
        annotations=kept_annotations(base),
    )
