#!/usr/bin/env bash
# Every address that generates, embeds or lists, with curl. Each command stands for itself.
#
#   examples/clients/curl.sh [http://127.0.0.1:8080]
set -euo pipefail
URL=${1:-http://127.0.0.1:8080}
JSON='Content-Type: application/json'

echo "# LoRAX: an answer of an adapter; the base model's without adapter_id"
curl -sS --fail-with-body "$URL/generate" -H "$JSON" -d '{
  "inputs": "<|im_start|>user\nHow do I stay healthy?<|im_end|>\n<|im_start|>assistant\n",
  "parameters": {"adapter_id": "pirate", "max_new_tokens": 40}
}'

echo; echo "# LoRAX: a stream, an event for each token; --no-buffer shows them as they come"
curl -sS --fail-with-body --no-buffer "$URL/generate_stream" -H "$JSON" -d '{
  "inputs": "<|im_start|>user\nHow do I stay healthy?<|im_end|>\n<|im_start|>assistant\n",
  "parameters": {"adapter_id": "pirate", "max_new_tokens": 4, "details": true}
}'

echo "# LoRAX: two adapters merged"
curl -sS --fail-with-body "$URL/generate" -H "$JSON" -d '{
  "inputs": "<|im_start|>user\nHow do I stay healthy?<|im_end|>\n<|im_start|>assistant\n",
  "parameters": {"merged_adapters": {"ids": ["pirate", "extract"], "weights": [1, 1]}, "max_new_tokens": 40}
}'

echo; echo "# OpenAI: what model may say"
curl -sS --fail-with-body "$URL/v1/models"

echo; echo "# OpenAI: a chat"
curl -sS --fail-with-body "$URL/v1/chat/completions" -H "$JSON" -d '{
  "model": "pirate",
  "messages": [{"role": "user", "content": "What is the capital of France?"}],
  "temperature": 0, "max_tokens": 40
}'

echo; echo "# OpenAI: a stream of a chat, with the usage in the last event"
curl -sS --fail-with-body --no-buffer "$URL/v1/chat/completions" -H "$JSON" -d '{
  "model": "pirate",
  "messages": [{"role": "user", "content": "What is the capital of France?"}],
  "temperature": 0, "max_tokens": 4,
  "stream": true, "stream_options": {"include_usage": true}
}'

echo "# OpenAI: a call of a tool"
curl -sS --fail-with-body "$URL/v1/chat/completions" -H "$JSON" -d '{
  "model": "",
  "messages": [{"role": "user", "content": "What will the weather be in Oslo, these two days?"}],
  "temperature": 0, "max_tokens": 60,
  "tools": [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city", "days"], "additionalProperties": false}}}],
  "tool_choice": {"type": "function", "function": {"name": "weather"}}
}'

echo; echo "# OpenAI: an answer that fits a JSON schema"
curl -sS --fail-with-body "$URL/v1/chat/completions" -H "$JSON" -d '{
  "model": "extract",
  "messages": [{"role": "user", "content": "Extract the order as JSON with customer, product, quantity, city.\nCan 3 fishing rods be with Emma Lindgren in Perth by Friday?"}],
  "temperature": 0, "max_tokens": 100,
  "response_format": {"type": "json_schema", "json_schema": {"name": "order", "strict": true, "schema": {
    "type": "object",
    "properties": {
      "customer": {"type": "string"}, "product": {"type": "string"},
      "quantity": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["customer", "product", "quantity", "city"], "additionalProperties": false}}}
}'

echo; echo "# OpenAI: a completion"
curl -sS --fail-with-body "$URL/v1/completions" -H "$JSON" -d '{
  "model": "pirate",
  "prompt": "<|im_start|>user\nHow do I stay healthy?<|im_end|>\n<|im_start|>assistant\n",
  "temperature": 0, "max_tokens": 8
}'

echo; echo "# OpenAI: vectors of two texts"
curl -sS --fail-with-body "$URL/v1/embeddings" -H "$JSON" -d '{
  "model": "pirate", "input": ["How do I bake bread?", "Yo ho ho!"]
}'

echo; echo "# What is wrong with a request: the status, and why"
curl -sS -w '\n%{http_code}\n' "$URL/v1/chat/completions" -H "$JSON" -d '{
  "model": "priate", "messages": [{"role": "user", "content": "Hello?"}]
}'
