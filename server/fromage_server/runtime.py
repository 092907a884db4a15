"""Everything that is loaded once: the model, its engine and the collections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from fromage_index import faiss_build
from fromage_server.collections import open_collections, provenance_of
from fromage_server.compose import Composer
from fromage_server.curator import Curator, Place
from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.memory import spare_bytes
from fromage_server.engine.packing import pack_linears
from fromage_server.engine.ranks import Leader
from fromage_server.features import BATCH, FeatureEncoder
from fromage_server.followers import Followers
from fromage_server.gallery import Gallery
from fromage_server.ingest import Ingest
from fromage_server.media import MediaReader
from fromage_server.ranks import device_of, together
from fromage_server.schema.answers import BundleCard
from fromage_server.service import Service
from fromage_server.settings import Settings
from fromage_server.startup import Loaded, Report
from fromage_server.uploads import UploadStore
from fromage_server.warming import warm_up
from fromage_server.workers import Workers
from fromage_weights.cpu import keep_freed_blocks
from fromage_weights.image_embedder import ImageEmbedder
from fromage_weights.loading import LoadedBundle, load_grounded_model

log = logging.getLogger(__name__)


def load(
    settings: Settings,
    uploads: UploadStore,
    workers: Workers,
    report: Report,
    followers: Followers | None = None,
) -> Loaded:
    """Raises the typed errors of the three packages."""
    report(f"loading the model {settings.bundle}")
    with ExitStack() as held:
        loaded, leader = _load_model(settings, followers, held)
        model, config = loaded.model, loaded.bundle.config
        assert loaded.vision is not None
        embedder = ImageEmbedder(loaded.vision, loaded.bundle.mappers)
        gallery = Gallery(open_collections(settings, loaded, embedder, report))
        limits = EngineConfig(
            settings.max_batch,
            settings.max_queue,
            settings.max_context,
            settings.prefill_tokens,
            settings.kv_cache_bytes,
            settings.deterministic,
        )
        engine = Engine(model, limits, leader=leader)
        media = MediaReader(uploads, gallery)
        ingest = Ingest(embedder)
        place = Place(
            settings.created_collections,
            provenance_of(loaded.bundle),
            config.shared_dim,
            faiss_build.nearest_device(str(model.device)),
        )
        # A picture's numbers, too, shall not depend on what it is encoded with.
        images = 1 if settings.deterministic else BATCH
        encoder = FeatureEncoder(loaded.vision, config.prompt_image, batch=images)
        report("warming up")
        warm_up(engine, encoder, gallery)
        # Not before: a device that waits for a lost one would let nobody hear of it.
        if followers is not None:
            followers.watch(engine.fail)
        service = Service(
            model_name=config.name,
            bundle_card=_card(loaded, engine, settings),
            engine=engine,
            limits=limits,
            tokenizer=model.tokenizer,
            stop=config.stop,
            stop_after_ret=config.stop_after_ret,
            composer=Composer(config, model.tokenizer, engine.max_context, media, encoder),
            gallery=gallery,
            curator=Curator(gallery, media, ingest, workers, place, read_only=settings.read_only),
            workers=workers,
        )
        return Loaded(
            service,
            _running(engine, held.pop_all()),
            partial(_stop, engine, ingest, encoder, gallery),
        )


def _load_model(
    settings: Settings, followers: Followers | None, held: ExitStack
) -> tuple[LoadedBundle, Leader | None]:
    """``held`` closes what the other processes are needed for."""
    if followers is None or followers.place.is_alone:
        loaded = load_grounded_model(
            settings.bundle,
            device=settings.device,
            dtype=settings.dtype,
            quantize=settings.quantize,
        )
        _say(loaded, settings)
        if loaded.model.device.type == "cpu":
            spare = spare_bytes(loaded.model.device)
            pack_linears(loaded.model.lm, spare, by_trial=not settings.deterministic)
            keep_freed_blocks()  # not before: what loading has freed may go
        return loaded, None
    place = followers.place
    device = device_of(settings.device, place)
    held.push(followers.abandon)
    held.enter_context(together(place, device, followers.check))
    loaded = load_grounded_model(
        settings.bundle, device=str(device), dtype=settings.dtype, world=place.world
    )
    _say(loaded, settings)
    return loaded, Leader(device)


def _say(loaded: LoadedBundle, settings: Settings) -> None:
    name, device = loaded.bundle.config.name, loaded.model.device
    log.info("%s on %s in %s", name, device, _numbers(loaded, settings))


def _numbers(loaded: LoadedBundle, settings: Settings) -> str:
    numbers = str(loaded.model.dtype).removeprefix("torch.")
    return (
        numbers if settings.quantize == "none" else f"{settings.quantize}, computing in {numbers}"
    )


def _card(loaded: LoadedBundle, engine: Engine, settings: Settings) -> BundleCard:
    config = loaded.bundle.config
    return BundleCard(
        language_model=config.lm.id,
        architecture=loaded.model.lm.config.model_type,
        vision_encoder=config.vision.id,
        context=engine.max_context,
        soft_tokens=config.n_visual_tokens,
        shared_dim=config.shared_dim,
        device=str(loaded.model.device),
        numbers=_numbers(loaded, settings),
    )


def _running(engine: Engine, held: ExitStack) -> Callable[[], None]:
    def run() -> None:
        with held:
            engine.run()

    return run


def _stop(engine: Engine, ingest: Ingest, encoder: FeatureEncoder, gallery: Gallery) -> None:
    engine.stop()
    ingest.close()
    encoder.close()
    gallery.close()
