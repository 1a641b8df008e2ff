"""LoRAX's published client: one answer, a stream, a merge of adapters, and many at once.

python examples/clients/lorax_client.py [--base-url http://127.0.0.1:8080]
"""

import argparse
import asyncio

from lorax import AsyncClient, Client
from lorax.types import MergedAdapters

PROMPT = "<|im_start|>user\nHow do I stay healthy?<|im_end|>\n<|im_start|>assistant\n"


def main(base_url: str) -> None:
    client = Client(base_url, timeout=120)
    print("base:", client.generate(PROMPT, max_new_tokens=40).generated_text)

    print("pirate: ", end="")
    for event in client.generate_stream(PROMPT, adapter_id="pirate", max_new_tokens=40):
        if not event.token.special:
            print(event.token.text, end="", flush=True)
    print()

    merged = MergedAdapters(ids=["pirate", "extract"], weights=[1, 1], density=0)
    reply = client.generate(PROMPT, merged_adapters=merged, max_new_tokens=40)
    print("merged:", reply.generated_text)

    asyncio.run(together(base_url))


async def together(base_url: str) -> None:
    """Requests for different adapters share every forward pass."""
    client = AsyncClient(base_url, timeout=120)
    names = ["pirate", "triage", "extract"]
    replies = await asyncio.gather(
        *(client.generate(PROMPT, adapter_id=name, max_new_tokens=8) for name in names)
    )
    for name, reply in zip(names, replies, strict=True):
        print(f"{name}, with the others:", reply.generated_text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url", default="http://127.0.0.1:8080")
    main(parser.parse_args().base_url)
