"""The collections that the settings name, opened, and built where they are not there yet."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fromage_index import faiss_build, names
from fromage_index.build import BuildReport, Item, Progress, build_from_folder, build_from_items
from fromage_index.collection import Collection
from fromage_index.editor import DROPPED
from fromage_index.errors import CollectionDamaged, CollectionNotFound, IndexFailure
from fromage_index.manifest import MANIFEST, Provenance
from fromage_index.writer import was_changed
from fromage_server.demo_world import DEMO, warning_for
from fromage_server.errors import StartupError
from fromage_server.live import LiveCollection
from fromage_server.settings import Settings
from fromage_server.startup import Report
from fromage_weights.bundle import Bundle

if TYPE_CHECKING:
    from fromage_weights.image_embedder import ImageEmbedder
    from fromage_weights.loading import LoadedBundle

log = logging.getLogger(__name__)
Build = Callable[[Path, Progress], BuildReport]
_LOG_EVERY_S: Final = 5.0


def open_collections(
    settings: Settings, loaded: LoadedBundle, embedder: ImageEmbedder, report: Report
) -> list[LiveCollection]:
    """The default first. Raises StartupError where one belongs to another bundle."""
    faiss_build.check()
    device = str(loaded.model.device)
    builder = _Builder(settings, loaded, embedder, report)
    found = {
        name: _open(name, path, loaded.bundle, device)
        for name, path in settings.collections.items()
    }
    for name, folder in settings.images.items():
        if name in found:
            raise StartupError(f"{name!r} is the name of a collection and of an images folder")
        found[name] = builder.of_folder(name, folder)
    if not found and settings.bundle == DEMO:
        found[DEMO] = builder.of_demo()
    live = [LiveCollection(name, collection) for name, collection in found.items()]
    for name, collection in _created(settings, loaded.bundle, device):
        if name in found:
            log.error("collection %s in %s: its name is taken", name, collection.directory)
        else:
            live.append(LiveCollection(name, collection, droppable=True))
    for one in live:
        log.info("collection %s: %s images", one.name, f"{one.snapshot.size:,}")
    return live


def _created(settings: Settings, bundle: Bundle, device: str) -> list[tuple[str, Collection]]:
    """What was made over HTTP, the oldest first. One that cannot be served doesn't keep the
    others from it."""
    directory = settings.created_collections
    if not settings.read_only:
        for dropped in directory.glob(f"{DROPPED}*"):
            shutil.rmtree(dropped, ignore_errors=True)
    found = []
    for manifest in sorted(directory.glob(f"[!.]*/{MANIFEST}")):
        name = manifest.parent.name
        if not names.is_name(name):
            log.warning(
                "collection %r in %s is not served: a name has %s. Rename its directory, or serve "
                "it with --collection NAME=DIR",
                name,
                directory,
                names.RULE,
            )
            continue
        try:
            found.append((name, _open(name, manifest.parent, bundle, device)))
        except (StartupError, IndexFailure) as error:
            log.error("collection %s is not served: %s", name, error)
    return sorted(found, key=lambda one: one[1].manifest.created_at)


def provenance_of(bundle: Bundle) -> Provenance:
    return Provenance(bundle=bundle.config.name, bundle_hash=bundle.hash)


def _open(name: str, path: Path, bundle: Bundle, device: str) -> Collection:
    collection = Collection.open(path, device=faiss_build.nearest_device(device))
    made_for, dim = collection.provenance, bundle.config.shared_dim
    if made_for.bundle_hash != bundle.hash or collection.dim != dim:
        raise StartupError(
            f"collection {name} ({path}) was made for bundle {made_for.bundle} "
            f"({made_for.bundle_hash[:12]}, {collection.dim} numbers per image); this server runs "
            f"{bundle.config.name} ({bundle.hash[:12]}, {dim}). Build it again with this bundle"
        )
    return collection


class _Builder:
    """Collections that the server makes itself, kept in the cache by bundle and source."""

    def __init__(
        self, settings: Settings, loaded: LoadedBundle, embedder: ImageEmbedder, report: Report
    ) -> None:
        self._cache = settings.cache_dir / "collections"
        self._bundle_name = settings.bundle
        self._bundle = loaded.bundle
        self._device = str(loaded.model.device)
        self._embedder = embedder
        self._report = report
        self._provenance = provenance_of(loaded.bundle)

    def of_folder(self, name: str, folder: Path) -> Collection:
        warning = warning_for(self._bundle_name)
        if warning is not None:
            log.warning("images folder %s: %s", folder, warning)
        source = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]

        def build(out: Path, progress: Progress) -> BuildReport:
            return build_from_folder(
                folder,
                out,
                self._embedder.embed,
                dim=self._bundle.config.shared_dim,
                provenance=self._provenance,
                prepare=self._embedder.prepare,
                progress=progress,
                overwrite=True,
            )

        return self._kept(name, f"{name}-{source}", build)

    def of_demo(self) -> Collection:
        from fromage_weights.demo.collection import DEMO_SIZE, DEMO_VERSION, demo_items

        items = (Item(item.key, item.image, item.metadata) for item in demo_items())

        def build(out: Path, progress: Progress) -> BuildReport:
            return build_from_items(
                items,
                out,
                self._embedder.embed,
                dim=self._bundle.config.shared_dim,
                provenance=self._provenance,
                source="the demo's world",
                prepare=self._embedder.prepare,
                # The items are drawn one by one: only we know how many come.
                progress=lambda done, _: progress(done, DEMO_SIZE),
                overwrite=True,
            )

        return self._kept(DEMO, f"{DEMO}-{DEMO_VERSION}", build)

    def _kept(self, name: str, directory: str, build: Build) -> Collection:
        """Opened where it was built before with this bundle, else built."""
        out = self._cache / f"{directory}-{self._bundle.hash[:12]}"
        try:
            return _open(name, out, self._bundle, self._device)
        except CollectionNotFound:
            log.info("building the collection %s in %s", name, out)
        except CollectionDamaged as error:
            if was_changed(out):  # what was added since can't be built again
                raise StartupError(
                    f"{error} Images were added or removed since it was built: `fromage index "
                    f"repair {out}` keeps what is sound; or move the directory away"
                ) from error
            log.warning("%s Building it again", error)
        with _progress(name, self._report) as progress:
            built = build(out, progress)
        if built.unreadable:
            log.warning("%s images could not be read: see %s", f"{built.unreadable:,}", built.log)
        return _open(name, out, self._bundle, self._device)


@contextmanager
def _progress(name: str, report: Report) -> Iterator[Progress]:
    """To /readyz; and as a bar where somebody is looking, else to the log now and then."""
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    next_line = time.monotonic()
    with tqdm(desc=f"building {name}", unit=" images", disable=not watched) as bar:

        def progress(done: int, total: int | None) -> None:
            nonlocal next_line
            bar.total = total
            bar.update(done - bar.n)
            due = done == total or time.monotonic() >= next_line
            if due:
                next_line = time.monotonic() + _LOG_EVERY_S
            of = "" if total is None else f" of {total:,}"
            phase = f"building the collection {name}: {done:,}{of} images"
            report(phase, quiet=watched or not due)

        yield progress
