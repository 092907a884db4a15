"""The recorded reference, and a server that runs the model imported from it."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Json = dict[str, Any]
COLLECTION = "cc3m"


@dataclass(frozen=True)
class Case:
    id: str
    prompt: list[Json]
    options: Json
    output: Json

    @property
    def max_tokens(self) -> int:
        return int(self.options["max_tokens"])


@dataclass
class Replay:
    """One variant behind a running server."""

    client: httpx.Client
    images: Path
    path: Path
    replies: dict[str, Json] = field(default_factory=dict)

    @cached_property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        return load_file(self.path / "arrays.safetensors")

    @cached_property
    def cases(self) -> list[Case]:
        """All but those in which readable files are said to fail."""
        prompts = json.loads((self.path / "prompts.json").read_text())
        outputs = json.loads((self.path / "outputs.json").read_text())
        return [
            Case(prompt["id"], self.parts(prompt["prompt"]), _options(prompt), output)
            for prompt, output in zip(prompts, outputs, strict=True)
            if not prompt.get("unreadable")
        ]

    def case(self, id: str) -> Case:
        return next(case for case in self.cases if case.id == id)

    def parts(self, prompt: list[dict[str, str]]) -> list[Json]:
        return [
            {"type": "text", "text": item["text"]}
            if "text" in item
            else {"type": "image_url", "image_url": {"url": data_uri(self.images / item["image"])}}
            for item in prompt
        ]

    def post(self, path: str, body: Json, status: int = 200) -> Json:
        response = self.client.post(path, json=body)
        assert response.status_code == status, response.text
        answer: Json = response.json()
        return answer

    def generate(self, case: Case, status: int = 200, **options: Any) -> Json:
        body = {
            "prompt": case.prompt,
            "return_token_ids": True,
            "return_query_embedding": True,
            **case.options,
            **options,
        }
        return self.post("/v1/generate", body, status)

    def as_reference(self, case: Case) -> Json:
        """The reply of `reference_compat`, asked for once."""
        if case.id not in self.replies:
            self.replies[case.id] = self.generate(case, reference_compat=True, logprobs=5)
        return self.replies[case.id]


def data_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def interleaved(content: list[Json]) -> list[Any]:
    """A reply's content as the reference returns it: strings, and lists of images' keys."""
    found: list[Any] = []
    for part in content:
        if part["type"] == "text":
            found.append(part["text"])
        elif found and isinstance(found[-1], list):
            found[-1].append(part["image"]["key"])
        else:
            found.append([part["image"]["key"]])
    return found


def recorded(output: Json) -> list[Any]:
    return [item if isinstance(item, str) else item["images"] for item in output["output"]]


def queries(content: list[Json]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Each [RET]'s number and query embedding, once."""
    seen: set[int] = set()
    for part in content:
        if part["type"] == "image" and part["ret_index"] not in seen:
            seen.add(part["ret_index"])
            yield part["ret_index"], np.array(part["query_embedding"], dtype=np.float32)


def _options(prompt: Json) -> Json:
    return {
        "max_tokens": prompt["num_words"],
        "temperature": prompt["temperature"],
        "ret_scale_factor": prompt["ret_scale_factor"],
        "max_num_rets": prompt["max_num_rets"],
        "max_img_per_ret": prompt["max_img_per_ret"],
    }
