"""A trained generator leaves: one page, ONNX, torch.export, a diffusers folder, a hub folder. Each is compared with PyTorch first."""
