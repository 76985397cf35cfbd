"""Names that a server and whoever posts to it must share. Imports nothing: peers' environments have nothing of ours."""

TENSOR_IN, TENSOR_OUT = "photograph", "answer"
