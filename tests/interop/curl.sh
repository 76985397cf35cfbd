#!/usr/bin/env bash
# curl, as the documents show it: a picture as the whole body, and one in base64.
set -euo pipefail
picture="$(dirname "$0")/../photographs/tabby_cat.jpg"
infer="$INTEROP_HTTP/v2/models/lite0/infer"

raw=$(curl -sS --fail-with-body -H 'Inference-Header-Content-Length: 0' --data-binary "@$picture" \
    "$infer?classification=1&budget_ms=5000" | tr -d '\0')
json=$(printf '{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["%s"]}],
    "parameters": {"classification": 1, "budget_ms": 5000}}' "$(base64 -w0 "$picture")" |
    curl -sS --fail-with-body --data-binary @- "$infer")
classify=$(curl -sS --fail-with-body --data-binary "@$picture" "$INTEROP_HTTP/classify?variant=lite0&top_k=1&budget_ms=5000")

label=$(sed 's/.*"label":"\([^"]*\)".*/\1/' <<<"$classify")
grep -qF ":$label" <<<"$raw"
grep -qF ":$label" <<<"$json"
echo "curl $(curl --version | cut -d' ' -f2 | head -1): raw body; base64"
