"""A model for people who have other software: MONAI bundle, TorchScript, ONNX, and a model card for a hub."""
