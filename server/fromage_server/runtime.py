"""Everything that is loaded once: the model, its engine and the collections."""

from __future__ import annotations

import logging

from fromage_index import faiss_build
from fromage_server.collections import open_collections, provenance_of
from fromage_server.compose import Composer
from fromage_server.curator import Curator, Place
from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.packing import pack_linears
from fromage_server.features import FeatureEncoder
from fromage_server.gallery import Gallery
from fromage_server.ingest import Ingest
from fromage_server.media import MediaReader
from fromage_server.service import Service
from fromage_server.settings import Settings
from fromage_server.startup import Loaded, Report
from fromage_server.uploads import UploadStore
from fromage_server.warming import warm_up
from fromage_server.workers import Workers
from fromage_weights.image_embedder import ImageEmbedder
from fromage_weights.loading import load_grounded_model

log = logging.getLogger(__name__)


def load(settings: Settings, uploads: UploadStore, workers: Workers, report: Report) -> Loaded:
    """Raises the typed errors of the three packages."""
    report(f"loading the model {settings.bundle}")
    loaded = load_grounded_model(
        settings.bundle, device=settings.device, dtype=settings.dtype, quantize=settings.quantize
    )
    model, config = loaded.model, loaded.bundle.config
    numbers = str(model.dtype).removeprefix("torch.")
    if settings.quantize != "none":
        numbers = f"{settings.quantize}, computing in {numbers}"
    log.info("%s on %s in %s", config.name, model.device, numbers)
    if model.device.type == "cpu":
        pack_linears(model.lm)
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
    engine = Engine(model, limits)
    media = MediaReader(uploads, gallery)
    ingest = Ingest(embedder)
    place = Place(
        settings.created_collections,
        provenance_of(loaded.bundle),
        config.shared_dim,
        faiss_build.nearest_device(str(model.device)),
    )
    encoder = FeatureEncoder(loaded.vision, config.prompt_image)
    report("warming up")
    warm_up(engine, encoder, gallery)
    service = Service(
        model_name=config.name,
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

    def stop() -> None:
        engine.stop()
        ingest.close()
        gallery.close()

    return Loaded(service, engine.run, stop)
