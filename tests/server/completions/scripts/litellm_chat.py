"""LiteLLM: prints what it makes of the server, as JSON."""

import json
import sys
from typing import Any

import litellm

url, image = sys.argv[1:]
SERVER: dict[str, Any] = {
    "model": "openai/demo",
    "api_base": f"{url}/v1",
    "api_key": "none",
    "max_retries": 0,
}
litellm.suppress_debug_info = True
asked = {"role": "user", "content": "show me a dog"}
first = litellm.completion(**SERVER, messages=[asked])
reply = first.choices[0].message
history = [asked, reply.model_dump(), asked]
second = litellm.completion(**SERVER, messages=history)
text = ""
images: list[Any] = []
for chunk in litellm.completion(**SERVER, messages=[asked], stream=True):
    delta = chunk.choices[0].delta
    text += delta.content or ""
    images += getattr(delta, "images", None) or []
question = [
    {"type": "image_url", "image_url": {"url": image}},
    {"type": "text", "text": "what is this?"},
]
seen = litellm.completion(**SERVER, messages=[{"role": "user", "content": question}])
errors: dict[str, list[str]] = {}
changes: dict[str, dict[str, Any]] = {
    "model": {"model": "openai/gpt-4o"},
    "value": {"response_format": {"type": "json_object"}},
}
for name, change in changes.items():
    try:
        litellm.completion(**SERVER | change, messages=[asked])
    except (litellm.exceptions.NotFoundError, litellm.exceptions.BadRequestError) as error:
        errors[name] = [type(error).__name__, str(error)]
print(
    json.dumps(
        {
            "first": reply.content,
            "images": reply.images,
            "second": [image["image_url"]["url"] for image in second.choices[0].message.images],
            "streamed": text,
            "streamed_images": images,
            "seen": seen.choices[0].message.content,
            "errors": errors,
        }
    )
)
