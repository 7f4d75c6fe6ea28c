"""Is the output the same model? Digests, configuration, and the run: judged by how far float32 itself is from float64.

The functions here work on torch modules and on ONNX files; nothing of a checkpoint is read, and no architecture is looked up.
`convert.parity.ladder` puts them together.
"""
