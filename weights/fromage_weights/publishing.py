"""Bundles to and from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from fromage_weights.bundle import CONFIG_NAME, Bundle, FrozenModel
from fromage_weights.errors import BundleInvalid, HubFailed, one_line
from fromage_weights.mappers import FILE_NAME

CARD = "README.md"
INSIDE = ("lm", "vision")
"""Where frozen models lie that travel with their bundle."""


def push(bundle: Path, repository: str, *, private: bool = False, card: Path | None = None) -> str:
    """Upload a bundle with a model card: ``card``, else the README.md beside it, else one made
    from what the bundle says. Returns the repository's address.

    Raises BundleInvalid where others could not find its frozen models, HubFailed where the hub
    refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    loaded = Bundle.load(bundle)
    for model in (loaded.config.lm, loaded.config.vision):
        _check_reachable(loaded, model)
        loaded.check_files(model)
    text = _card(loaded, repository, card)
    # What bundle.json lists, and nothing that a training run left beside it.
    operations = [
        CommitOperationAdd(file.relative_to(bundle).as_posix(), str(file))
        for file in (bundle / CONFIG_NAME, bundle / FILE_NAME, *_inner_files(loaded))
    ]
    operations.append(CommitOperationAdd(CARD, text.encode()))
    with _told(repository):
        api = HfApi()
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message=f"Bundle {loaded.hash[:12]}")
    return str(url)


def _inner_files(bundle: Bundle) -> list[Path]:
    models = (bundle.config.lm, bundle.config.vision)
    return [bundle.path / model.id / name for model in models for name in model.files]


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


def _check_reachable(bundle: Bundle, model: FrozenModel) -> None:
    if model.id.startswith("./") and PurePosixPath(model.id).parts[0] not in INSIDE:
        raise BundleInvalid(
            bundle.path / CONFIG_NAME,
            f"{model.id}: models inside a bundle lie in ./lm and ./vision",
        )
    if not model.id.startswith("./") and Path(model.id).is_absolute():
        raise BundleInvalid(
            bundle.path / CONFIG_NAME,
            f"names {model.id}, which nobody else has: train with a hub id, or put the model "
            "inside the bundle and name it ./lm or ./vision",
        )


def _card(bundle: Bundle, repository: str, card: Path | None) -> str:
    file = card if card is not None else bundle.path / CARD
    if card is not None or file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise HubFailed(f"{file}: {error}") from error
    config = bundle.config
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
