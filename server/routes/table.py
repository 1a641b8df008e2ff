"""Every address that is answered. `openapi/operations.py` says of each what it takes and gives."""

from typing import Final

from aiohttp import web

from lorax_serve.server.routes import (
    admin,
    chat,
    classify,
    completions,
    docs,
    embeddings,
    health,
    metrics,
    models,
    native,
    tokenize,
)

PUBLIC_ROUTES: Final = (
    web.post("/", native.root),
    web.post("/generate", native.generate),
    web.post("/generate_stream", native.generate_stream),
    web.post("/invocations", native.root),
    web.post(f"{native.DEPLOYMENT}/generate", native.generate),
    web.post(f"{native.DEPLOYMENT}/generate_stream", native.generate_stream),
    web.post(native.DEPLOYMENT, native.root),
    web.post("/embed", embeddings.embed),
    web.post("/classify", classify.classify),
    web.post("/classify_batch", classify.classify_batch),
    web.post("/tokenize", tokenize.tokenize),
    web.post("/detokenize", tokenize.detokenize),
    web.post("/v1/chat/completions", chat.chat_completions),
    web.post("/v1/completions", completions.completions),
    web.post("/v1/embeddings", embeddings.embeddings),
    web.get("/v1/models", models.list_models),
    web.get("/v1/models/{model_id:.+}", models.retrieve_model),
    web.get("/", health.health),
    web.get("/health", health.health),
    web.get("/ping", health.ready),
    web.post("/ping", health.ready),
    web.get("/ready", health.ready),
    web.get("/startup", health.startup),
    web.get("/info", health.info),
    web.get("/version", health.version),
    web.get("/metrics", metrics.metrics),
    web.get("/openapi.json", docs.openapi),
    web.get("/api-doc/openapi.json", docs.openapi),
    web.get("/docs", docs.docs),
)

# Only there where a key was set, and for who presents it: without one, nothing at these addresses
# tells of them.
OPERATOR_ROUTES: Final = (
    web.post("/v1/load_lora_adapter", admin.load),
    web.post("/v1/unload_lora_adapter", admin.unload),
    web.get("/adapters", admin.status),
    web.post("/adapters/{name:.+}/pin", admin.pin),
    web.post("/adapters/{name:.+}/unpin", admin.unpin),
    web.post("/adapters/{name:.+}/refresh", admin.refresh),
)
