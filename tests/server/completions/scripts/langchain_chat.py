"""LangChain's ChatOpenAI: prints what it makes of the server, as JSON."""

import json
import sys

from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

url, image = sys.argv[1:]
model = ChatOpenAI(model="demo", base_url=f"{url}/v1", api_key="none", max_retries=0)
asked = HumanMessage("show me a dog")
first = model.invoke([SystemMessage("Be kind."), asked])
second = model.invoke([SystemMessage("Be kind."), asked, first, HumanMessage("show me a dog")])
streamed = AIMessageChunk(content="")
for chunk in model.stream("show me a dog", stream_usage=True, logprobs=True):
    streamed += chunk
seen = model.invoke(
    [
        HumanMessage(
            [
                {"type": "image_url", "image_url": {"url": image}},
                {"type": "text", "text": "what is this?"},
            ]
        )
    ]
)
many = model.batch(["show me a cow", "show me a pig"])
print(
    json.dumps(
        {
            "first": first.content,
            "usage": first.usage_metadata,
            "second": second.content,
            "streamed": streamed.content,
            "streamed_usage": streamed.usage_metadata,
            "logprobs": len(streamed.response_metadata["logprobs"]["content"]),
            "seen": seen.content,
            "many": [reply.content for reply in many],
        }
    )
)
