"""The Open Inference Protocol of a real server: the answers of the REST API, from files and from pixels alike."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from model_store.catalogue import Catalogue
from service.runtime.decode import decode_rgb
from service.runtime.preprocess import preprocess

PATIENT = {"budget_ms": 20_000}


@pytest.fixture(scope="module")
def picture(espresso) -> bytes:
    """Small and lossless, so that nothing is scaled while it is decoded."""
    with io.BytesIO() as file:
        Image.open(io.BytesIO(espresso)).convert("RGB").resize((320, 280)).save(file, "PNG")
        return file.getvalue()


def infer(client, name: str, datatype: str, shape: list[int], content: bytes) -> np.ndarray:
    """Probabilities of a binary request to the pinned model."""
    tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(content)}}
    header = json.dumps({"inputs": [tensor], "parameters": PATIENT | {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    response = client.post("/v2/models/lite0/infer", content=header + content, headers=headers)
    assert response.status_code == 200, response.text
    tail = response.content[int(response.headers["inference-header-content-length"]) :]
    return np.frombuffer(tail, "<f4").reshape(shape[0], 1000)


def infer_picture(client, picture: bytes) -> np.ndarray:
    return infer(client, "image", "BYTES", [1], struct.pack("<I", len(picture)) + picture)


def infer_pixels(client, pixels: np.ndarray) -> np.ndarray:
    return infer(client, "pixels", "UINT8", list(pixels.shape), pixels.tobytes())


def test_the_whole_row_agrees_with_rest(client, picture) -> None:
    """Every class has a probability, they add up to one, and the best are those of `POST /classify`."""
    (row,) = infer_picture(client, picture)
    assert row.sum() == pytest.approx(1, abs=1e-4)
    answer = client.post("/classify?variant=lite0&top_k=5&budget_ms=20000", content=picture).json()
    for prediction in answer["predictions"]:
        assert row[prediction["index"]] == pytest.approx(prediction["probability"], abs=1e-6)


def test_pixels_are_the_picture_to_the_last_bit(client, picture) -> None:
    """The same pixels, in a file or as a tensor, give the same probabilities."""
    pixels = decode_rgb(picture, 10**6, 10**8).pixels[np.newaxis]
    assert (infer_pixels(client, pixels) == infer_picture(client, picture)).all()


def test_pixels_of_the_networks_size_are_its_input(client, picture, lite_store) -> None:
    """What a caller cropped and resized as the server does is not cropped once more."""
    variant = Catalogue.open(lite_store, only=["lite0"]).entries["lite0"].variant
    ready = np.zeros((2, variant.resolution, variant.resolution, 3), np.uint8)
    for row in ready:
        preprocess(decode_rgb(picture, 10**6, 10**8), variant, row)
    answered = infer_pixels(client, ready)
    assert (answered == infer_picture(client, picture)).all()
