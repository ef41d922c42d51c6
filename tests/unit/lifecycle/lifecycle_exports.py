"""Exports with a file that is large enough to be shared, and helpers to look at trees."""

from __future__ import annotations

from pathlib import Path

from world import World, write_export

from policyctl.services.integrity.verify import verify
from policyctl.services.releases.publish import Published, publish

LARGE = bytes(range(256)) * 400


def publish_large(world: World, release: str, seed: int, *, model: str = "walker", large: bytes = LARGE) -> Published:
    """Publish a release that holds `large` as ``sub/weights.bin``."""
    source = write_export(world.folder / f"export-{model}-{release}", seed)
    (source / "sub").mkdir()
    (source / "sub" / "weights.bin").write_bytes(large)
    return publish(world.control, source, model=model, release=release)


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every path with mode and content; what is only for people or only scratch apart."""
    left_out = {"lock", "staging"}
    return {
        str(p.relative_to(root)): (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"")
        for p in sorted(root.rglob("*"))
        if not left_out & {p.name, p.parent.name}
    }


def not_intact(world: World) -> list[str]:
    """What `verify` finds wrong."""
    return [f"{f.what}: {f.detail}" for f in verify(world.control) if not f.intact]


def spoil(path: Path, content: bytes | None = None) -> None:
    """Change a read-only file in place."""
    good = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:] if content is None else content)
