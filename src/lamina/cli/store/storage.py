"""`fsck --storage` and `prune --storage`: object storage."""

from __future__ import annotations

from lamina.cli.format.output import emit_json, write
from lamina.cli.format.text import clean, counted, human_size


def check_storage(url: str, *, repair: bool, quick: bool, format: str | None) -> int:
    """Check object storage, and print what is wrong. Returns an exit code."""
    from lamina.objects.address import open_bucket
    from lamina.objects.fsck import Checker

    report = Checker(open_bucket(url), deep=not quick, repair=repair).run()
    if format == "json":
        emit_json(
            {
                "blobs": report.blobs,
                "bytes": report.size,
                "manifests": report.manifests,
                "tags": report.tags,
                "uploads": report.uploads,
                "ok": not report.damage,
                "findings": [
                    *({"severity": "error", "what": line} for line in report.damage),
                    *({"severity": "note", "what": line} for line in report.notes),
                ],
            }
        )
    else:
        for severity, lines in (("error", report.damage), ("note", report.notes)):
            for line in lines:
                write(f"{severity}: {clean(line)}")
        checked = (
            f"{counted(report.blobs, 'blob')} ({human_size(report.size)}), {counted(report.manifests, 'manifest')}"
        )
        write(f"{checked} and {counted(report.tags, 'tag')} checked, {counted(len(report.damage), 'problem')}")
    return 1 if report.damage else 0


def prune_storage(url: str, *, dry_run: bool, format: str | None) -> None:
    """Delete what nothing needs from object storage, and print it."""
    from lamina.objects.address import open_bucket
    from lamina.objects.gc import Collector

    collector = Collector(open_bucket(url))
    done = collector.plan() if dry_run else collector.run()
    if format == "json":
        emit_json(
            {
                "deleted": [str(digest) for digest in done.blobs],
                "freed": done.size,
                "uploads": done.uploads,
                "dry_run": dry_run,
            }
        )
        return
    would = "would be " if dry_run else ""
    for digest in done.blobs:
        write(f"{would}deleted: {digest}")
    if done.uploads:
        write(f"{would}deleted: {counted(done.uploads, 'abandoned upload')}")
    write(f"{would}freed: {human_size(done.size)} ({done.size} bytes)")
