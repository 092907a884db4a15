"""The linear layers and the one token that FROMAGe trains (paper, section 3)."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import normalize

from fromage_weights.errors import DamagedFile, one_line

FILE_NAME = "mappers.safetensors"


class Mappers(nn.Module):
    """All trained parameters, kept in float32 whatever the frozen models run in.

    visual_embeddings   pooled vision feature -> n soft tokens of the LM's input space
    visual_fc           pooled vision feature -> shared retrieval space
    text_hidden_fcs     LM hidden state at [RET] -> shared space, one per layer, summed
    ret_embedding       the [RET] row of the LM's input embedding, (1, embed_dim)
    ret_head            the [RET] row of the output head, (1, hidden_dim); None where it is tied
    logit_scale         log of the contrastive temperature's inverse
    """

    ret_head: nn.Parameter | None

    def __init__(
        self,
        vision_dim: int,
        embed_dim: int,
        hidden_dim: int,
        n_visual_tokens: int,
        shared_dim: int,
        text_emb_layers: Sequence[int] = (-1,),
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.vision_dim = vision_dim
        self.embed_dim = embed_dim
        self.hidden_dim = hidden_dim
        self.n_visual_tokens = n_visual_tokens
        self.shared_dim = shared_dim
        self.text_emb_layers = tuple(text_emb_layers)
        self.tied = tied
        self.visual_embeddings = nn.Linear(vision_dim, n_visual_tokens * embed_dim)
        self.visual_fc = nn.Linear(vision_dim, shared_dim)
        self.text_hidden_fcs = nn.ModuleList(
            nn.Linear(hidden_dim, shared_dim) for _ in self.text_emb_layers
        )
        self.ret_embedding = nn.Parameter(torch.randn(1, embed_dim) * 0.02)
        self.register_parameter(
            "ret_head", None if tied else nn.Parameter(torch.randn(1, hidden_dim) * 0.02)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    def soft_tokens(self, features: Tensor) -> Tensor:
        """(B, vision_dim) -> (B, n_visual_tokens, embed_dim), float32."""
        flat: Tensor = self.visual_embeddings(features.to(self.device, torch.float32))
        return flat.reshape(len(flat), self.n_visual_tokens, self.embed_dim)

    def image_embeddings(self, features: Tensor) -> Tensor:
        """(B, vision_dim) -> (B, shared_dim), unit norm, float32."""
        return normalize(self.visual_fc(features.to(self.device, torch.float32)), dim=-1)

    def query_embeddings(self, hidden: Tensor) -> Tensor:
        """(B, L, hidden_dim), L = len(text_emb_layers) -> (B, shared_dim), unit norm, float32."""
        layers = hidden.to(self.device, torch.float32).unbind(dim=-2)
        mapped = [fc(h) for fc, h in zip(self.text_hidden_fcs, layers, strict=True)]
        return normalize(torch.stack(mapped).sum(dim=0), dim=-1)

    def similarity(self, queries: Tensor, images: Tensor) -> Tensor:
        """(Q, shared_dim), (N, shared_dim), both unit norm -> (Q, N): cosines times
        exp(logit_scale), the logits of the contrastive loss (paper, section 3.2)."""
        return self.logit_scale.exp() * queries @ images.T

    def save(self, path: Path, dtype: torch.dtype = torch.float32) -> str:
        """Write the tensors and return the file's SHA-256."""
        tensors = {
            name: value.detach().to("cpu", dtype).contiguous()
            for name, value in self.state_dict().items()
        }
        path.write_bytes(save(tensors))  # save_file's are readable by their owner only
        return file_sha256(path)

    def load(self, path: Path) -> None:
        """Read the tensors of ``save``; DamagedFile names what is missing or misshapen."""
        found = read_tensors(path)
        expected = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        check_tensors(path, found, expected)
        self.load_state_dict({name: value.float() for name, value in found.items()})


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise DamagedFile(path, "the file is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFile(path, f"not a readable safetensors file ({one_line(error)})") from error


def check_tensors(
    path: Path, found: dict[str, Tensor], expected: dict[str, tuple[int, ...]]
) -> None:
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise DamagedFile(path, f"tensors are missing: {', '.join(missing)}")
    extra = sorted(found.keys() - expected.keys())
    if extra:
        raise DamagedFile(path, f"unexpected tensors: {', '.join(extra)}")
    for name, shape in expected.items():
        if tuple(found[name].shape) != shape:
            raise DamagedFile(
                path, f"{name} has shape {tuple(found[name].shape)}, expected {shape}"
            )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
