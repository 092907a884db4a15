"""Bundles to and from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fromage_weights.bundle import (
    CONFIG_NAME,
    Bundle,
    BundleConfig,
    FrozenModel,
    checksums,
    json_of,
)
from fromage_weights.errors import BundleInvalid, HubFailed, one_line
from fromage_weights.mappers import FILE_NAME

CARD = "README.md"
INSIDE = ("lm", "vision")
"""Where frozen models lie that travel with their bundle."""


def push(
    bundle: Path,
    repository: str,
    *,
    private: bool = False,
    card: Path | None = None,
    with_models: bool = False,
) -> str:
    """Upload a bundle with a model card: ``card``, else the README.md beside it, else one made
    from what the bundle says. ``with_models``: frozen models that it names in this machine's
    directories, too; what is uploaded names them where they lie in it. Returns the repository's
    address.

    Raises BundleInvalid where others could not find its frozen models, HubFailed where the hub
    refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    loaded = Bundle.load(bundle)
    folders: dict[str, Path] = {}
    models: dict[str, FrozenModel] = {}
    for part in INSIDE:
        model: FrozenModel = getattr(loaded.config, part)
        _check_reachable(loaded, model, with_models=with_models)
        models[part], folder = _published(loaded, part, model)
        if folder is not None:
            folders[models[part].id] = folder
    config = loaded.config.model_copy(update=models)
    # What bundle.json lists, and nothing that a training run left beside it.
    files = {FILE_NAME: bundle / FILE_NAME} | {
        str(PurePosixPath(model.id) / name): folders[model.id] / name
        for model in models.values()
        for name in model.files
    }
    contents = {CONFIG_NAME: json_of(config), CARD: _card(loaded, config, repository, card)}
    operations = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
    operations += [CommitOperationAdd(name, text.encode()) for name, text in contents.items()]
    with _told(repository):
        api = HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"Bundle {loaded.hash[:12]}")
    return str(url)


def _published(bundle: Bundle, part: str, model: FrozenModel) -> tuple[FrozenModel, Path | None]:
    """As others will find it, and where its files are here; None where those are on the hub."""
    if model.files:
        bundle.check_files(model)
        return model, bundle.path / model.id
    if model.id.startswith("./"):
        folder, named = bundle.path / model.id, model
    elif Path(model.id).is_absolute():
        folder, named = Path(model.id), model.model_copy(update={"id": f"./{part}"})
    else:
        return model, None
    listed = named.model_copy(update={"files": checksums(folder)})
    if not listed.files:
        raise BundleInvalid(bundle.path / CONFIG_NAME, f"{model.id}: no files in {folder}")
    return listed, folder


def pull(repository: str, out: Path, *, revision: str | None = None) -> Bundle:
    """Download a bundle to ``out`` and check every file that it lists. Raises HubFailed, and what
    ``Bundle.load`` and ``Bundle.check_files`` raise."""
    from huggingface_hub import snapshot_download

    # The hub's own notes are there where an earlier pull was broken off.
    fresh = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not fresh and not (out / ".cache" / "huggingface").is_dir():
        raise HubFailed(f"{out} is there already; name an empty directory or a new one")
    wanted = [CONFIG_NAME, FILE_NAME, CARD, *(f"{folder}/*" for folder in INSIDE)]
    with _told(repository):
        snapshot_download(repository, revision=revision, local_dir=out, allow_patterns=wanted)
    bundle = Bundle.load(out)
    for model in (bundle.config.lm, bundle.config.vision):
        bundle.check_files(model)
    return bundle


@contextmanager
def _told(repository: str) -> Iterator[None]:
    from httpx import HTTPError, TransportError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except (TransportError, ConnectionError, TimeoutError) as error:
        raise HubFailed(f"{repository}: the hub cannot be reached ({one_line(error)})") from error
    except (
        HFValidationError,
        LocalTokenNotFoundError,
        HfHubHTTPError,
        HTTPError,
        ValueError,  # a card that the hub doesn't accept
        OSError,
    ) as error:
        raise HubFailed(f"{repository}: {one_line(error)}") from error


def _check_reachable(bundle: Bundle, model: FrozenModel, *, with_models: bool) -> None:
    if model.id.startswith("./") and PurePosixPath(model.id).parts[0] not in INSIDE:
        raise BundleInvalid(
            bundle.path / CONFIG_NAME,
            f"{model.id}: models inside a bundle lie in ./lm and ./vision",
        )
    if Path(model.id).is_absolute() and not with_models:
        raise BundleInvalid(
            bundle.path / CONFIG_NAME,
            f"names {model.id}, which nobody else has: --with-models uploads it, too, if its "
            "licence allows that",
        )


def _card(bundle: Bundle, config: BundleConfig, repository: str, card: Path | None) -> str:
    file = card if card is not None else bundle.path / CARD
    if card is not None or file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HubFailed(f"{file}: {error}") from error
    named = [m.id for m in (config.lm,) if not m.id.startswith("./")]
    base = "".join(f"base_model: {name}\n" for name in named)
    return f"""---
library_name: fromage
pipeline_tag: image-text-to-text
tags: [fromage, image-retrieval, multimodal-chat]
{base}---

# {config.name}

Mappers of a FROMAGe (Koh, Salakhutdinov, Fried, ICML 2023): a frozen language model and a frozen
vision tower, joined by linear layers and the token {config.ret_token}.

| part | what | hash |
|---|---|---|
| language model | {config.lm.id} | {config.lm.hash} |
| vision tower | {config.vision.id} | {config.vision.hash} |
| mappers | {config.n_visual_tokens} soft tokens per image, {config.shared_dim} dimensions | \
{config.mappers_sha256} |

    fromage weights pull {repository} {config.name}
    fromage index build photos --collection photos.index --bundle {config.name}
    fromage serve --bundle {config.name} --collection photos=photos.index

The bundle's format is version {config.format_version}; a model with another hash is refused.
"""
