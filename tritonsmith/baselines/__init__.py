"""The servers that the Triton deployment is compared with: FastAPI around PyTorch and around ONNX Runtime."""
